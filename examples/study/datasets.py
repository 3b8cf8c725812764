"""Features and labels for the studies: digits is bundled, the others are read from a folder.

A file that is missing, or that does not hold what is expected, is refused with the place that has
it. Networks that make features are trained on instances that are then left out, and are frozen.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from sklearn.decomposition import PCA
from sklearn.feature_extraction.image import extract_patches_2d
from sklearn.kernel_approximation import RBFSampler
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional

N_APART = 2000  # train the networks that make features
N_EPOCHS = 20


class File(NamedTuple):
    """What an ``.npz`` file must hold: shapes by name, labels last, and where it comes from."""

    name: str
    shapes: dict
    n_classes: int
    source: str

    def read(self, folder):
        """Its arrays by name.

        Raises
        ------
        FileNotFoundError
            If it is not there.
        ValueError
            If it holds something else.
        """
        path = pathlib.Path(folder) / self.name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. It holds {self._described()}.")
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
        shapes = {name: array.shape for name, array in found.items() if name in self.shapes}
        if shapes != self.shapes:
            raise ValueError(f"{path} has the arrays {shapes}. Expected: {self._described()}.")
        labels = np.concatenate([a for name, a in found.items() if name in self._labels()])
        if len(np.unique(labels)) != self.n_classes:
            raise ValueError(
                f"{path} has {len(np.unique(labels))} classes. Expected: {self._described()}."
            )
        return found

    def _labels(self):
        return [name for name, shape in self.shapes.items() if len(shape) == 1]

    def _described(self):
        arrays = ", ".join(f"{name} {shape}" for name, shape in self.shapes.items())
        return f"{arrays}, {self.n_classes} classes; source: {self.source}"


MNIST = File(
    "mnist_10k.npz",
    {"images": (10000, 28, 28), "labels": (10000,)},
    10,
    "the test images of MNIST, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz, "
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
LETTER = File(
    "letter.npz",
    {"X": (20000, 16), "y": (20000,)},
    26,
    "UCI Letter Recognition, https://archive.ics.uci.edu/dataset/59/letter+recognition",
)
BANKING77 = File(
    "banking77_minilm.npz",
    {
        "features_train": (10003, 384),
        "y_train": (10003,),
        "features_test": (3080, 384),
        "y_test": (3080,),
    },
    77,
    "Banking77, https://github.com/PolyAI-LDN/task-specific-datasets, as sentence embeddings of "
    "sentence-transformers/all-MiniLM-L6-v2, in the order of train.csv and test.csv",
)


def digits(folder=None):
    """Pixels of 1797 images (n, 64), 10 classes."""
    X, y = load_digits(return_X_y=True)
    return X / 16, y


def letter(folder):
    """300 random Fourier features of 20,000 letters with 16 attributes, 26 classes."""
    X, y = _letters(folder)
    sampler = RBFSampler(gamma=0.03, n_components=300, random_state=0)
    return sampler.fit_transform(StandardScaler().fit_transform(X)), y


def letter_mlp(folder):
    """64 features of 18,000 letters from a small perceptron trained on 2000 others, 26 classes."""
    X, y, apart, rest = _scaled_letters(folder)
    return _perceptron(X, y, apart)(X[rest]), y[rest]


def mnist(folder):
    """64 features of 8000 images from a small convolutional autoencoder, 10 classes.

    It is trained on the first 2000 images without their labels.
    """
    found = MNIST.read(folder)
    images = torch.from_numpy(found["images"]).float()[:, None] / 255
    y = found["labels"].astype(int)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(*_convolutions(), nn.Linear(32 * 7 * 7, 64))
        decoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 784))
        optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
        for _ in range(N_EPOCHS):
            for rows in torch.randperm(N_APART).split(64):
                batch = images[rows]
                loss = (decoder(encoder(batch)) - batch.flatten(start_dim=1)).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    with torch.no_grad():
        X = encoder(images[N_APART:]).double().numpy()
    return (X - X.mean(axis=0)) / X.std(axis=0) / 8, y[N_APART:]


def mnist_cnn(folder):
    """64 features of 8000 images from a small convolutional classifier, 10 classes.

    It is trained on 2000 other images, drawn at random, and their labels.
    """
    images, y, apart, rest = _images(folder)
    return _convolutional(images, y, apart)(images[rest]), y[rest]


def banking77(folder):
    """128 principal components, for speed, of embeddings of 13,083 queries, 77 classes."""
    found = BANKING77.read(folder)
    X = np.concatenate([found["features_train"], found["features_test"]]).astype(float)
    y = np.concatenate([found["y_train"], found["y_test"]]).astype(int)
    return PCA(128, random_state=0).fit_transform(X), y


DATA_SETS = {
    "digits": digits,
    "mnist": mnist,
    "mnist-cnn": mnist_cnn,
    "letter": letter,
    "letter-mlp": letter_mlp,
    "banking77": banking77,
}


def load(name, folder):
    """Features (n, D) and labels (n,), counted from 0, of a data set.

    Raises
    ------
    FileNotFoundError, ValueError
        If its file is missing or holds something else.
    """
    if name != "digits" and folder is None:
        raise FileNotFoundError(f"{name} needs --data FOLDER; digits alone needs no file.")
    return DATA_SETS[name](folder)


def other_data(name, folder, n, seed):
    """Features (n, D) of what is none of the classes.

    For images the patches of the photographs that scikit-learn bundles, through the same network;
    for tables and text rows whose columns are shuffled, each on its own, which keeps the values
    and loses what connects them.
    """
    rng = np.random.default_rng(seed)
    if name == "digits":
        return _photographs(8, n, seed).reshape(n, 64)
    if name == "mnist-cnn":
        images, y, apart, _ = _images(folder)
        return _convolutional(images, y, apart)(_photographs(28, n, seed)[:, None])
    if name == "letter-mlp":
        X, y, apart, rest = _scaled_letters(folder)
        return _perceptron(X, y, apart)(rng.permuted(rng.permutation(X[rest])[:n], axis=0))
    X, _ = load(name, folder)
    return rng.permuted(rng.permutation(X)[:n], axis=0)


def _photographs(size, n, seed):
    """Grey patches (n, size, size) in [0, 1], half of them of each photograph."""
    grey = [image.mean(axis=2) / 255 for image in load_sample_images().images]
    patches = [
        extract_patches_2d(image, (size, size), max_patches=n, random_state=seed) for image in grey
    ]
    return np.concatenate(patches)[:: len(grey)]


def _images(folder):
    """(n, 1, 28, 28) in [0, 1], labels, and the rows to train on and the others."""
    found = MNIST.read(folder)
    y = found["labels"].astype(int)
    return found["images"][:, None] / 255, y, *_rows_apart(len(y))


def _letters(folder):
    found = LETTER.read(folder)
    return found["X"].astype(float), np.unique(found["y"], return_inverse=True)[1]


def _scaled_letters(folder):
    """Attributes, labels, and the rows to train on and the others."""
    X, y = _letters(folder)
    apart, rest = _rows_apart(len(y))
    return StandardScaler().fit(X[apart]).transform(X), y, apart, rest


def _rows_apart(n):
    """Rows that a network is trained on, and the others."""
    rows = np.random.default_rng(0).permutation(n)
    return rows[:N_APART], rows[N_APART:]


def _convolutions():
    """From (1, 28, 28) to 1568 numbers."""
    return (
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
    )


def _convolutional(images, y, apart):
    layers = (*_convolutions(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10))
    return _trained(layers, images[apart], y[apart])


def _perceptron(X, y, apart):
    layers = (nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 26))
    return _trained(layers, X[apart], y[apart])


def _trained(layers, X, y):
    """A function from inputs to those of the last layer, after a training of all layers.

    Its outputs are centred and scaled by those of the training, to a mean square of 1 in all.
    """
    X, labels = torch.from_numpy(X).float(), torch.from_numpy(y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in layers:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        network = nn.Sequential(*layers)
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(N_EPOCHS):
            for rows in torch.randperm(len(X)).split(64):
                loss = functional.cross_entropy(network(X[rows]), labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()

    @torch.no_grad()
    def outputs(inputs):
        return network[:-1](torch.as_tensor(inputs).float()).double().numpy()

    found = outputs(X)
    mean, scale = found.mean(axis=0), found.std(axis=0)
    alive = scale > 0  # a unit that never fires in training says nothing
    scale = np.where(alive, scale, 1) * np.sqrt(alive.sum())
    return lambda inputs: ((outputs(inputs) - mean) / scale)[:, alive]
