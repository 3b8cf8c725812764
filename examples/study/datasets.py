"""Features and labels for the studies: digits is bundled, the others are read from a folder."""

import pathlib

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.kernel_approximation import RBFSampler
from sklearn.preprocessing import StandardScaler
from torch import nn

N_IMAGES_APART = 2000  # train the network that makes the features of MNIST


def digits(folder=None):
    """Pixels of 1797 images (n, 64), 10 classes."""
    X, y = load_digits(return_X_y=True)
    return X / 16, y


def letter(folder):
    """300 random Fourier features of 20,000 letters with 16 attributes, 26 classes.

    UCI Letter Recognition as ``letter.npz``: arrays X (n, 16) and y.
    """
    with np.load(folder / "letter.npz") as data:
        X, y = data["X"].astype(float), np.unique(data["y"], return_inverse=True)[1]
    sampler = RBFSampler(gamma=0.03, n_components=300, random_state=0)
    return sampler.fit_transform(StandardScaler().fit_transform(X)), y


def mnist(folder):
    """64 features of 8000 images from a small convolutional autoencoder, 10 classes.

    It is trained on 2000 other images without their labels. ``mnist_10k.npz``: arrays images
    (10000, 28, 28) and labels.
    """
    with np.load(folder / "mnist_10k.npz") as data:
        images = torch.from_numpy(data["images"]).float()[:, None] / 255
        y = data["labels"].astype(int)
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
    )
    decoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 784))
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    for _ in range(20):
        for rows in torch.randperm(N_IMAGES_APART).split(64):
            batch = images[rows]
            loss = (decoder(encoder(batch)) - batch.flatten(start_dim=1)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        X = encoder(images[N_IMAGES_APART:]).double().numpy()
    return (X - X.mean(axis=0)) / X.std(axis=0) / 8, y[N_IMAGES_APART:]


def banking77(folder):
    """Sentence embeddings (13083, 384) of customer queries, 77 classes.

    ``banking77_minilm.npz``: arrays features_train, y_train, features_test, y_test.
    """
    with np.load(folder / "banking77_minilm.npz") as data:
        X = np.concatenate([data["features_train"], data["features_test"]]).astype(float)
        y = np.concatenate([data["y_train"], data["y_test"]]).astype(int)
    return X, y


DATA_SETS = {"digits": digits, "letter": letter, "mnist": mnist, "banking77": banking77}


def load(names, folder):
    """The data sets by name; without a folder only those that need no file."""
    if folder is None:
        return {"digits": digits()}
    return {name: DATA_SETS[name](pathlib.Path(folder)) for name in names}
