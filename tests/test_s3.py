"""Files of runs in an S3 store: through `hpo server`, and directly."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

import boto3
import object_store
import pytest
import requests
from command import hpo
from object_store import SECRET, Store
from served import free_port, served

from hpo.errors import UserError
from hpo.server import _check_bucket

with warnings.catch_warnings():  # of their own imports
    warnings.simplefilter("ignore")
    from mlflow import MlflowClient

ROOT = Path(__file__).parents[1]
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with object_store.running() as store:
        yield store


def run_a_trial(home: Path, *options: str) -> None:
    done = hpo(
        *("run", ROOT / "studies" / "quickstart.yaml", "--home", home, "--json"),
        *("--set", "budget.trials=1", "--set", "train.epochs=1", "--set", "workers=1", *options),
    )
    assert done.code == 0, done.err
    assert done.json["replica"]["pending"] == 0, done.err


def files_of(folder: Path) -> Iterator[bytes]:
    return (path.read_bytes() for path in folder.rglob("*") if path.is_file())


@slow
def test_files_go_through_the_server_which_alone_has_the_keys(
    store: Store, tmp_path: Path
) -> None:
    home, elsewhere = tmp_path / "server", tmp_path / "elsewhere"
    home.mkdir()
    arguments = ("--home", home, "--artifacts", "s3://team/mlflow", "--port", str(free_port()))
    with served("server", *arguments, env=store.environment) as up:
        run_a_trial(elsewhere, "--set", f"tracking.uri={up.url}")
        assert "predictions.npz" in store.names("mlflow")
        client = MlflowClient(up.url)
        experiment = client.get_experiment_by_name("quickstart")
        assert experiment is not None
        (trial,) = client.search_runs([experiment.experiment_id], "tags.`hpo.trial` = '0'")
        found = client.download_artifacts(trial.info.run_id, "predictions.npz", str(tmp_path))
        kept = elsewhere / "studies" / "quickstart" / "trials" / "0" / "predictions.npz"
        assert Path(found).read_bytes() == kept.read_bytes()
        for process in up.processes():
            assert SECRET not in " ".join(process.cmdline())
        assert SECRET not in str(up.said) + up.log.read_text()
    assert not [content for content in files_of(tmp_path) if SECRET.encode() in content]


@slow
def test_files_go_directly_where_an_experiment_has_them_in_the_store(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "mlruns").mkdir()
    database = tmp_path / "mlruns" / "mlflow.db"
    database.write_bytes(empty_store.read_bytes())
    MlflowClient(f"sqlite:///{database}").create_experiment("quickstart", "s3://team/direct")
    run_a_trial(tmp_path)
    assert "predictions.npz" in store.names("direct")
    assert not [content for content in files_of(tmp_path) if SECRET.encode() in content]


def refused(tmp_path: Path, artifacts: str) -> str:
    """What is said of a server that keeps files there; it makes nothing."""
    options = ("--artifacts", artifacts, "--port", str(free_port()))
    called = hpo("server", "--home", tmp_path / "home", *options)
    assert called.code == 2
    assert list(tmp_path.iterdir()) == []
    return called.err


def test_a_bucket_that_cannot_be_used_is_said(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    said = refused(tmp_path, "s3://no-such")
    assert "--artifacts s3://no-such: An error occurred (NoSuchBucket)" in said
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    said = refused(tmp_path, "s3://team")
    assert "Could not connect to the endpoint URL" in said
    assert "MLFLOW_S3_ENDPOINT_URL says where the store is" in said


def check(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # which has read the keys already
    _check_bucket("s3://team/mlflow", said.append)


def test_wrong_keys_end_it_and_keys_that_may_do_less_are_only_said(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    url, said = store.environment["MLFLOW_S3_ENDPOINT_URL"], list[str]()
    iam = boto3.client("iam", endpoint_url=url)
    iam.create_user(UserName="ada")
    key = iam.create_access_key(UserName="ada")["AccessKey"]
    requests.post(f"{url}/moto-api/reset-auth", data="0")  # from now on it looks at keys
    try:
        with pytest.raises(UserError, match="InvalidAccessKeyId"):
            check(said, monkeypatch)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        with pytest.raises(UserError, match="SignatureDoesNotMatch"):
            check(said, monkeypatch)
        assert said == []
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        check(said, monkeypatch)
        assert "AccessDenied" in said.pop()
    finally:
        requests.post(f"{url}/moto-api/reset-auth", data="inf")
    check(said, monkeypatch)
    assert said == []


def test_without_boto3_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "boto3" else find(name)
    )
    assert "pip install 'hpo[s3]'" in refused(tmp_path, "s3://team")
