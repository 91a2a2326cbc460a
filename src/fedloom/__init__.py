"""fedloom: federated fine-tuning, personalisation, transfer and pre-training of multimodal foundation models."""

__version__ = "0.1.0"
