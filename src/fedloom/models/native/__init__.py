"""Native multimodal models: the class, processor and chat template of a Hugging Face checkpoint, with LoRA on its parts."""
