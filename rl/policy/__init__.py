"""The learner: PPO, its losses and advantages, critic and reference."""
