"""Loading the server's generator and captioner."""

from collections.abc import Sequence

from fedloom.models.generation.captioner import Captioner
from fedloom.models.generation.generator import Generator
from fedloom.models.generation.public_set import Synthesis
from fedloom.models.generation.settings import SynthesisSettings
from fedloom.models.load import choose_device


def load_synthesis(
    settings: SynthesisSettings, names: Sequence[str], held: Sequence[str], device: str
) -> Synthesis:
    """The server's generator and captioner, for clients that hold these modalities. Raises ExperimentError."""
    where = choose_device(device)
    generator, captioner = (
        Generator.load(settings.generator, where),
        Captioner.load(settings.captioner, matcher=settings.matcher, device=where),
    )
    return Synthesis(settings, generator, captioner, names, held)
