"""Several processes that run studies at once, in one PostgreSQL database."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
from multiprocessing.synchronize import Barrier

import optuna
import postgres
import psycopg
import pytest
from running import HPO, wait_for_epochs
from workbench import Workbench

from hpo.database import open_database

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tables_made")]

AT_ONCE = 6


def make_study(address: str, name: str, together: Barrier) -> None:
    together.wait(30)
    database = open_database(address, print, lambda: False)
    optuna.create_study(storage=database, study_name=name)
    database.close()


def test_row_29_many_processes_may_make_the_tables_at_the_same_moment(
    database_server: postgres.Server,
) -> None:
    context = multiprocessing.get_context("fork")
    address, together = database_server.new_database(), context.Barrier(AT_ONCE)
    processes = [
        context.Process(target=make_study, args=(address, f"s{number}", together))
        for number in range(AT_ONCE)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * AT_ONCE
    with psycopg.connect(address) as connection:
        (made,) = connection.execute("select count(*) from studies").fetchone() or ()
    assert made == AT_ONCE


def test_row_29_studies_of_several_processes_share_an_empty_database(
    bench: Workbench, database_server: postgres.Server
) -> None:
    address = database_server.new_database()
    command = [*HPO, "run", str(bench.file), "--home", str(bench.folder)]
    for told in (f"storage={address}", "sampler=tpe", "train.seconds=0.1"):
        command += ["--set", told]

    def started(study: str, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "--set", f"study={study}", *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    names = ["s", "b", "c"]
    running = {name: started(name, "--json") for name in names}
    wait_for_epochs(bench, 1)
    second = started("s")
    refused = second.communicate(timeout=60)[1]
    assert second.returncode == 2
    assert f"study 's' is being run by process {running['s'].pid} on " in refused
    assert "Traceback" not in refused
    for name, process in running.items():
        output, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        assert json.loads(output)["trials"]["complete"] == 5
        reported = {(r["number"], r["epoch"]) for r in bench.records("epoch", name)}
        storage = optuna.storages.RDBStorage(address)
        trials = optuna.load_study(storage=storage, study_name=name).trials
        storage.engine.dispose()
        assert {(t.number, e) for t in trials for e in t.intermediate_values} == reported
        assert len(reported) == 5 * 4
