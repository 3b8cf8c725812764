"""Small skorch classifiers of digits, for tests of networks that are trained."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import nn

X, y = load_digits(return_X_y=True)
X = X / 16


class Perceptron(nn.Module):
    """A module that is made anew, with new weights, whenever a net is initialised."""

    def __init__(self, n_hidden=32, n_outputs=10, dropout=0.2):
        super().__init__()
        self.hidden = nn.Linear(64, n_hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(n_hidden, n_outputs)

    def forward(self, X):
        return self.head(self.dropout(torch.relu(self.hidden(X))))


def small_net(module=Perceptron, **params):
    settings = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer": torch.optim.Adam,
        "lr": 0.01,
        "max_epochs": 8,
        "train_split": None,
        "verbose": 0,
    }
    return NeuralNetClassifier(module, **settings | params)


def binary_net(**params):
    settings = {"module__n_outputs": 1, "optimizer": torch.optim.Adam, "lr": 0.01}
    return NeuralNetBinaryClassifier(Perceptron, train_split=None, verbose=0, **settings | params)


def weights(net):
    """All weights of a net as one vector."""
    return np.concatenate([w.detach().numpy().ravel() for w in net.module_.parameters()])
