"""Does LoRAMoE keep knowledge?"""
