"""What is frozen: the ImageBind encoder, the multimodal LLM around it, and where foundations are loaded from."""
