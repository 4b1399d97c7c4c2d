import emulated
import pytest


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    return emulated.builder(tmp_path_factory.mktemp("kernels"))
