from pathlib import Path

import pytest
from report_folders import make_rows, make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "q")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two rows of two seeds; one run of the second row refused a client."""
    broken = {"refused": {"c1": "not finite: tensor llm.q holds NaN"}}
    return make_rows(
        tmp_path / "demo",
        {
            ("FedAvg-LoRA", 0): {"image": 0.5, "up": 1_000_000, "seconds": 10.0},
            ("FedAvg-LoRA", 1): {"image": 0.6, "up": 3_000_000, "seconds": 12.0},
            ("FedA²-LoRA", 0): {"image": 0.7, "error": 0.004},
            ("FedA²-LoRA", 1): {
                "image": 0.72,
                "error": 0.002,
                "status": "complete with refusals: 1 of 12 updates",
                **broken,
            },
        },
    )
