import dask
import pytest
from dask_blocks import X, y

from laplace_al import LaplaceUpdateClassifier


@pytest.fixture(scope="module")
def client():
    """Two processes of one thread each."""
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def here():
    """No cluster: Dask's threads of this process are not needed to compare numbers."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def fitted():
    return LaplaceUpdateClassifier().fit(X[:60], y[:60])
