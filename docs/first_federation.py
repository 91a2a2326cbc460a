"""A federation of two silos: pictures and sounds from Python, a plot, an answer."""

import numpy as np
from PIL import Image

import fedloom as fl

rng = np.random.default_rng(0)
pictures: list[dict[str, object]] = []
sounds: list[dict[str, object]] = []
for i in range(40):
    size, red = rng.integers(32, 64, 2).tolist(), i % 2 == 0
    picture = Image.new("RGB", size, (220, 30, 30) if red else (30, 30, 220))
    pictures.append({"image": picture, "question": "what colour is it?", "answer": "red" if red else "blue"})
    wave = np.sin(np.arange(8000) * rng.uniform(0.3, 0.4) / (1 if i % 2 else 6))
    sounds.append(
        {"audio": wave, "rate": 16000, "question": "is it high?", "answer": "yes" if i % 2 else "no"}
    )
data = fl.clients({"camera": pictures, "microphone": sounds})
experiment = fl.Experiment(method="fedavg-lora", rounds=5, data=data, training={"batch_size": 8, "lr": 0.01})
result = fl.run(experiment.replace(**{"evaluation.controls": False}))
figures = result.metrics().filter(regex="^global/(image|audio)/token_accuracy$")
figures.plot(ylim=(0, 1), ylabel="token accuracy").figure.savefig("rounds.png")
print(figures)
print(result.model().ask("what colour is it?", image=[pictures[0]["image"], pictures[1]["image"]]))
