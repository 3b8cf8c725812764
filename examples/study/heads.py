"""Last layers without a posterior: the baselines of the study, from weights (D + 1, C)."""

import numpy as np
import torch
from scipy.special import log_softmax, softmax
from torch.nn import functional

N_EPOCHS, BATCH_SIZE, MOMENTUM = 10, 32, 0.9


def augmented(X):
    """Features phi (n, D + 1), a constant 1 last."""
    return np.c_[X, np.ones(len(X))]


def weights_of(clf):
    """Mean of the weights (D + 1, C), the intercept last."""
    return np.vstack([clf.coef_.T, clf.intercept_])


def first_order(weights, phi, y, rates):
    """Weights after one step along the gradient for each label, at each rate: (R, D + 1, C)."""
    stepped = np.repeat(weights[None], len(rates), axis=0)
    rates = np.asarray(rates)[:, None, None]
    for row, label in zip(phi, y, strict=True):
        residual = -softmax(row @ stepped, axis=1)  # (R, C)
        residual[:, label] += 1
        stepped += rates * row[:, None] * residual[:, None, :]
    return stepped


def sgd(weights, phi, y, rates, decay, seed):
    """Weights after ``N_EPOCHS`` of mean cross-entropy + decay / 2 |W|^2: (R, D + 1, C).

    The rate falls to 0. All rates see the same batches.
    """
    phi, labels = torch.from_numpy(phi).float(), torch.from_numpy(y)
    W = torch.from_numpy(weights).float().repeat(len(rates), 1, 1)
    one_hot = functional.one_hot(labels, W.shape[2]).float()
    rates = torch.tensor(rates, dtype=W.dtype)[:, None, None]
    velocity, generator = torch.zeros_like(W), torch.Generator().manual_seed(seed)
    batches = [
        rows
        for _ in range(N_EPOCHS)
        for rows in torch.randperm(len(y), generator=generator).split(BATCH_SIZE)
    ]
    for step, rows in enumerate(batches):
        batch = phi[rows]
        residual = (batch @ W).softmax(dim=2) - one_hot[rows]  # (R, b, C)
        gradient = batch.T @ residual / len(rows) + decay * W
        velocity = MOMENTUM * velocity + gradient
        W = W - rates * (1 - step / len(batches)) * velocity
    return W.double().numpy()


def shares_of(draws, phi, y):
    """Weight of each draw (S, D + 1, C): the likelihood of the labels, the sum being 1."""
    log_proba = log_softmax(phi @ draws, axis=2)  # (S, n, C)
    return softmax(log_proba[:, np.arange(len(y)), y].sum(axis=1).astype(float))


def negative_log_likelihood(weights, phi, y):
    """Mean over the labels in nats, for each of the weights (R, D + 1, C); diverged: inf."""
    with np.errstate(over="ignore", invalid="ignore"):
        log_proba = log_softmax(phi @ weights, axis=2)
    return np.nan_to_num(-log_proba[:, np.arange(len(y)), y].mean(axis=1), nan=np.inf)


def radam(X, y, n_classes, prior_precision, n_epochs=200):
    """Train a last layer from zero with RAdam, as the paper retrains."""
    torch.manual_seed(0)
    head = torch.nn.Linear(X.shape[1], n_classes)
    optimiser = torch.optim.RAdam(head.parameters(), lr=0.1, weight_decay=prior_precision / len(X))
    inputs, labels = torch.from_numpy(X).float(), torch.from_numpy(y)
    for _ in range(n_epochs):
        for rows in torch.randperm(len(X)).split(64):
            optimiser.zero_grad()
            functional.cross_entropy(head(inputs[rows]), labels[rows]).backward()
            optimiser.step()
    return head
