"""LoRA and VeRA adapters on a frozen foundation, through PEFT."""
