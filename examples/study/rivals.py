"""Rivals of a Bayesian last layer: small networks on the same features, and laplace-torch."""

import torch
from torch import nn
from torch.nn import functional

N_HIDDEN, N_STEPS, N_MEMBERS, N_PASSES = 128, 300, 5, 50


def ensemble(X, y, X_test, n_classes, seed):
    """Probabilities of 5 networks (5, n, C), and of 50 passes of the first with dropout."""
    X, y, X_test = (
        torch.from_numpy(X).float(),
        torch.from_numpy(y),
        torch.from_numpy(X_test).float(),
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        members = [_trained(X, y, n_classes) for _ in range(N_MEMBERS)]
        samples = torch.stack([member(X_test).softmax(dim=1) for member in members])
        first = members[0].train()
        dropout = torch.stack([first(X_test).softmax(dim=1) for _ in range(N_PASSES)])
    return samples.double().numpy(), dropout.double().numpy()


@torch.enable_grad()
def _trained(X, y, n_classes):
    network = nn.Sequential(
        nn.Linear(X.shape[1], N_HIDDEN), nn.ReLU(), nn.Dropout(0.5), nn.Linear(N_HIDDEN, n_classes)
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(N_STEPS):
        optimiser.zero_grad()
        functional.cross_entropy(network(X), y).backward()
        optimiser.step()
    return network.eval()


def laplace_torch(X, y, X_test, n_classes, seed):
    """Probabilities of laplace-torch's last layer, by structure of its Hessian.

    Its prior precision is the one of the largest marginal likelihood, and the head is trained with
    the prior precision that this begins with, 1.
    """
    from laplace import Laplace  # optional

    X, X_test, y = (
        torch.from_numpy(X).float(),
        torch.from_numpy(X_test).float(),
        torch.from_numpy(y),
    )
    network = nn.Sequential(nn.Identity(), nn.Linear(X.shape[1], n_classes))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _fit(network, X, y)
        data = torch.utils.data.TensorDataset(X, y)
        found = {}
        for structure in ("kron", "full"):
            if structure == "full" and X.shape[1] * n_classes >= 1000:
                continue
            approximation = Laplace(
                network,
                "classification",
                subset_of_weights="last_layer",
                hessian_structure=structure,
            )
            approximation.fit(torch.utils.data.DataLoader(data, batch_size=128))
            approximation.optimize_prior_precision(method="marglik")
            proba = [
                approximation(rows, link_approx="probit").detach() for rows in X_test.split(64)
            ]
            found[f"laplace-torch {structure}", "marginal likelihood"] = (
                torch.cat(proba).double().numpy()
            )
    return found


def _fit(network, X, y):
    """To the mode with a prior precision of 1."""
    optimiser = torch.optim.LBFGS(network.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = functional.cross_entropy(network(X), y, reduction="sum")
        value = value + sum(weights.square().sum() for weights in network.parameters()) / 2
        value.backward()
        return value

    optimiser.step(loss)
