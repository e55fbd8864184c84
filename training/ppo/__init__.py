"""Reinforcement learning from compiler feedback."""
