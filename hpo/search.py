"""The study in Optuna: open or resume it, ask, report, tell.

Only the orchestrator calls this. Everything goes through Optuna's public objects, so that
``optuna-dashboard`` and ``study.trials_dataframe()`` show true states, values and curves.

What is promised: with the same seed and the same finished trials, the suggestion for trial number
n is the same, also after a restart (the samplers' random streams are set anew for each trial;
GPSampler's warm-started kernel is the exception). What is not: suggestions computed while other
trials train depend on what had finished by then.
"""

from __future__ import annotations

import random
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from hpo.errors import HpoError, StudyChanged, UserError
from hpo.history import History, State, seed_for
from hpo.journal import SingleWriterJournal
from hpo.paths import StudyPaths
from hpo.ranks import RankHalving
from hpo.samplers import MOST_LISTED, choose_sampler, make_pruner, make_sampler, reseed
from hpo.spec import Choice, Float, Int, Parameter, Scalar, StudySpec
from hpo.spec.space import contains, grid, grid_size, is_active
from hpo.tracking.redact import redact

# A trial's own facts lie in one user attribute, so that one write stores them all.
ATTRIBUTE = "hpo"
MOST_REPEATS = 20  # duplicates in a row before a space counts as searched

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass(frozen=True)
class Suggestion:
    """A configuration to train.

    Attributes:
        number: The Optuna trial's number.
        params: Searched path → value.
        duplicate_of: The number of the trial that has the same params, if there is one; such a
            suggestion is not to be trained.
    """

    number: int
    params: dict[str, Scalar]
    duplicate_of: int | None = None


class Search:
    """One Optuna study.

    Attributes:
        study_id: Chosen when it was made; the outbox names the same.
        sampler_name, sampler_note: Which sampler it is, and why if hpo chose it.
    """

    def __init__(
        self,
        study: optuna.Study,
        spec: StudySpec,
        storage: optuna.storages.BaseStorage,
        journal: SingleWriterJournal | None,
        history: History,
        max_epochs: int | None,
    ) -> None:
        self.sampler_name, why = choose_sampler(spec)
        self.sampler_note = f"{self.sampler_name}: {why}" if why else self.sampler_name
        self.study_id: str = study.user_attrs["hpo:study_id"]
        self._journal = journal
        self._study = study
        self._spec = spec
        self._storage = storage
        self._several = len(spec.objective) > 1
        self._live: dict[int, optuna.Trial] = {}
        self._grid = self._shuffled_grid()
        self._seen: dict[tuple[tuple[str, Scalar], ...], int] = {}
        study.sampler = make_sampler(self.sampler_name, spec)
        self._ranks = (
            RankHalving(spec.pruner.name, spec.pruner.options, self._signs())
            if self._several and spec.pruner.name != "none"
            else None
        )
        if not self._several:
            study.pruner = make_pruner(spec, history, max_epochs)
        for trial in study.get_trials(deepcopy=False):
            if self.is_own(trial) and trial.state.is_finished():
                self._remember(trial.params, trial.number)

    @property
    def learns(self) -> bool:
        """Whether what is suggested depends on the results of earlier trials."""
        return self.sampler_name not in ("random", "grid", "qmc")

    # -- asking

    def ask(self) -> Suggestion | None:
        """The next configuration, or None when there is no other left to try."""
        number = len(self._study.get_trials(deepcopy=False))
        if self._grid is not None:
            untried = next((p for p in self._grid if _key(p) not in self._seen), None)
            if untried is None and not self._has_waiting():
                return None
            if self.sampler_name == "grid" and untried is not None and not self._has_waiting():
                self._study.enqueue_trial(untried)
        reseed(self._study.sampler, seed_for(self._spec.seed, number, "suggest"))
        trial = self._study.ask()
        params = self._suggest(trial)
        self._live[trial.number] = trial
        twin = self._remember(params, trial.number)
        return Suggestion(trial.number, params, twin)

    def ask_untried(self) -> Suggestion | None:
        """Like `ask` after a duplicate: of a space that can be listed, one not tried yet.

        Of a larger space, a random one, which may be a duplicate again.
        """
        if self._grid is not None:
            untried = [p for p in self._grid if _key(p) not in self._seen]
            if untried and not self._has_waiting():
                pick = random.Random(seed_for(self._spec.seed, len(self._seen), "untried"))
                self._study.enqueue_trial(pick.choice(untried))
            return self.ask()
        sampler, self._study.sampler = self._study.sampler, optuna.samplers.RandomSampler()
        try:
            return self.ask()
        finally:
            self._study.sampler = sampler

    def again(self, number: int) -> Suggestion:
        """Take up trial `number`, asked earlier but not finished."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id(), number)
        if self._storage.get_trial(trial_id).state == TrialState.WAITING:
            self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        reseed(self._study.sampler, seed_for(self._spec.seed, number, "suggest"))
        trial = optuna.Trial(self._study, trial_id)
        params = self._suggest(trial)
        self._live[number] = trial
        return Suggestion(number, params, self._remember(params, number))

    def unfinished(self) -> list[int]:
        """Numbers of the trials that were asked and have no end yet.

        A WAITING trial was either asked and set aside by `close`, or is a known configuration
        that nobody has asked for; Optuna keeps the latter's params as ``fixed_params``.
        """
        trials = self._study.get_trials(
            deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)
        )
        return [
            t.number
            for t in trials
            if t.state == TrialState.RUNNING or t.params or "fixed_params" not in t.system_attrs
        ]

    @property
    def started(self) -> bool:
        """Whether what `start_from` names has been taken in, by this or an earlier run."""
        return bool(self._study.user_attrs.get("hpo:started"))

    def set_started(self) -> None:
        self._study.set_user_attr("hpo:started", True)

    def enqueue(self, params: Mapping[str, Scalar]) -> None:
        """Have `params` suggested before anything the sampler thinks of."""
        self._study.enqueue_trial(dict(params), skip_if_exists=True)

    def learn_from(self, earlier: Sequence[optuna.trial.FrozenTrial], name: str) -> int:
        """Add another study's finished trials to what the sampler knows; returns how many fit.

        Only those whose every parameter lies in this study's space; they are no trials of this
        study (not counted, not listed), and keep their origin in an attribute.
        """
        known = {
            (facts.get("from_study"), facts.get("from_trial"))
            for facts in (t.user_attrs.get(ATTRIBUTE, {}) for t in self._study.trials)
        }
        added = 0
        for trial in earlier:
            if (name, trial.number) in known:
                continue
            active = active_parameters(self._spec.search, trial.params)
            fits = all(
                path in trial.params and contains(parameter, trial.params[path])
                for path, parameter in active.items()
            )
            if trial.state != TrialState.COMPLETE or not fits:
                continue
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.COMPLETE,
                    values=trial.values,
                    params={path: trial.params[path] for path in active},
                    distributions={path: distribution(p) for path, p in active.items()},
                    intermediate_values=trial.intermediate_values,
                    user_attrs={ATTRIBUTE: {"from_study": name, "from_trial": trial.number}},
                )
            )
            added += 1
        return added

    # -- while a trial trains, and at its end

    def report(self, number: int, epoch: int, values: Sequence[float]) -> str | None:
        """Record an epoch's objective values; why the trial is to be pruned, or None."""
        if self._several:
            return self._ranks.report(number, epoch, values) if self._ranks else None
        trial = self._live[number]
        trial.report(values[0], epoch)
        if not trial.should_prune():
            return None
        return f"{self._spec.pruner.name} at epoch {epoch}"

    def tell(
        self,
        number: int,
        state: State,
        values: Sequence[float] | None,
        facts: Mapping[str, Any],
    ) -> None:
        """End trial `number`.

        Optuna's own `Study.tell` would give a pruned trial its last value; here it keeps its
        best. A stopped trial that has values is a PRUNED one to Optuna, else a FAIL.

        Args:
            values: The best epoch's, one an objective, or None when no epoch was finished.
            facts: Kept as the user attribute ``hpo``.
        """
        trial = self._live.pop(number)
        optuna_state = {
            "complete": TrialState.COMPLETE,
            "pruned": TrialState.PRUNED,
            "failed": TrialState.FAIL,
            "stopped": TrialState.PRUNED if values else TrialState.FAIL,
        }[state]
        kept = list(values) if values and optuna_state != TrialState.FAIL else None
        if self._several and optuna_state == TrialState.PRUNED:
            kept = None  # Optuna gives a meaning to several values of complete trials only
        trial.set_user_attr(ATTRIBUTE, {"state": state, **facts})
        frozen = self._storage.get_trial(trial._trial_id)
        self._study.sampler.after_trial(self._study, frozen, optuna_state, kept)
        self._storage.set_trial_state_values(trial._trial_id, optuna_state, kept)

    def epochs(self, number: int) -> set[int]:
        """The epochs that Optuna knows of trial `number`."""
        frozen = self._storage.get_trial(self._live[number]._trial_id)
        return set(frozen.intermediate_values)

    def commit(self) -> None:
        """Make everything told so far survive a crash of the machine (a database does at once)."""
        if self._journal is not None:
            self._journal.commit()

    def close(self) -> None:
        """Show what is not over as waiting, until a later `again`, and close the storage."""
        while self._live:
            _, trial = self._live.popitem()
            self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        if self._journal is not None:
            self._journal.close()
        elif isinstance(self._storage, optuna.storages.RDBStorage):
            self._storage.engine.dispose()

    @staticmethod
    def is_own(trial: optuna.trial.FrozenTrial) -> bool:
        """Whether `trial` is of this study, not learnt from another."""
        return "from_study" not in trial.user_attrs.get(ATTRIBUTE, {})

    # -- inner parts

    def _suggest(self, trial: optuna.Trial) -> dict[str, Scalar]:
        params: dict[str, Scalar] = {}
        for path, parameter in self._spec.search.items():
            if not is_active(parameter, params):
                continue
            match parameter:
                case Float(low=low, high=high, log=log, step=step):
                    params[path] = trial.suggest_float(path, low, high, log=log, step=step)
                case Int(low=low, high=high, log=log, step=step):
                    params[path] = trial.suggest_int(path, low, high, log=log, step=step or 1)
                case Choice(choices=choices):
                    params[path] = trial.suggest_categorical(path, choices)
        return params

    def _remember(self, params: Mapping[str, Scalar], number: int) -> int | None:
        first = self._seen.setdefault(_key(params), number)
        return None if first == number else first

    def _shuffled_grid(self) -> list[dict[str, Scalar]] | None:
        """Every configuration in random order, where they can be listed; else None."""
        if not self._spec.search:
            return None
        size = grid_size(self._spec.search)
        if size is None or size > MOST_LISTED and self.sampler_name != "grid":
            return None
        configurations = grid(self._spec.search)
        random.Random(seed_for(self._spec.seed, 0, "grid")).shuffle(configurations)
        return configurations

    def _has_waiting(self) -> bool:
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _signs(self) -> list[int]:
        return [1 if objective.maximize else -1 for objective in self._spec.objective]

    def _study_id(self) -> int:
        return self._storage.get_study_id_from_name(self._study.study_name)


def open_search(
    spec: StudySpec, paths: StudyPaths, history: History, max_epochs: int | None
) -> Search:
    """Open the study in its storage, creating it if need be. The caller holds its lease.

    Args:
        history: What has happened in it; a pruner may read on in there.
        max_epochs: The most that a trial of the study trains, if that is known.

    Raises:
        StudyChanged: The study there was made from another file.
        UserError: The storage cannot be used (its address, its version, a study of that name
            which is not hpo's), or it and the outbox are not of the same study.
    """
    storage, journal = _open_storage(spec.storage, paths)
    try:
        study = _open_study(spec, paths, history, storage)
    except BaseException:
        if journal is not None:
            journal.close()
        raise
    return Search(study, spec, storage, journal, history, max_epochs)


def _open_study(
    spec: StudySpec, paths: StudyPaths, history: History, storage: optuna.storages.BaseStorage
) -> optuna.Study:
    directions = [objective.goal for objective in spec.objective]
    names = [s.study_name for s in storage.get_all_studies()]
    recorded_id = history.study["study_id"] if history.study else None
    if spec.study not in names:
        if history.trials:
            raise UserError(
                f"studies/{spec.study} has a record of this study, but the storage has no study "
                f"of that name.\nWas `storage` changed? Put it back, or start another study: "
                f"`--set study={spec.study}-2`."
            )
        study = optuna.create_study(storage=storage, study_name=spec.study, directions=directions)
        study.set_user_attr("hpo:study_id", recorded_id or uuid.uuid4().hex)
        study.set_user_attr("hpo:identity", spec.identity())
        study.set_metric_names([objective.metric for objective in spec.objective])
    else:
        study = optuna.load_study(storage=storage, study_name=spec.study)
        before = study.user_attrs.get("hpo:identity")
        if before is None:
            raise UserError(
                f"the storage has a study '{spec.study}' that hpo did not make.\n"
                "Choose another name: `study:` in the file, or `--set study=NAME`."
            )
        check_unchanged(spec.study, before, spec.identity())
        own = any(Search.is_own(trial) for trial in study.get_trials(deepcopy=False))
        if recorded_id != study.user_attrs["hpo:study_id"] and (recorded_id or own):
            raise UserError(
                f"the storage has a study '{spec.study}' whose record is not in "
                f"{paths.root}: it was run from elsewhere, or the record was lost.\n"
                f"Run it where it was begun (--home), bring its folder here, or start another: "
                f"`--set study={spec.study}-2`."
            )
    return study


def check_unchanged(study: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a study whose meaning has changed.

    Raises:
        StudyChanged: Its message lists every difference.
    """
    changed = [
        f"  {key}: {_shown(before, key)} → {_shown(now, key)}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise StudyChanged(
            f"study '{study}' was begun with other settings; its trials would not compare:\n"
            + "\n".join(changed)
            + f"\nPut them back to go on with it, or start another: `--set study={study}-2`."
        )


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "(not there)"


def earlier_trials(
    spec: StudySpec, paths: StudyPaths, name: str
) -> list[optuna.trial.FrozenTrial]:
    """The trials of another study, in the same storage or beside this one.

    Raises:
        UserError: There is no such study, or its objective is another.
    """
    if spec.storage == "journal":
        journal = paths.root.parent / name / paths.journal.name
        if not journal.is_file():
            raise UserError(f"start_from: there is no study '{name}' beside this one")
        backend = optuna.storages.journal.JournalFileBackend(str(journal))
        storage: optuna.storages.BaseStorage = optuna.storages.JournalStorage(backend)
    else:
        storage, _ = _open_storage(spec.storage, paths)
    try:
        study = optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        raise UserError(f"start_from: there is no study '{name}' in {spec.storage}") from None
    metrics = [objective.metric for objective in spec.objective]
    if study.metric_names != metrics:
        raise UserError(
            f"start_from: study '{name}' searched for {study.metric_names}, this one for {metrics}"
        )
    return [trial for trial in study.get_trials(deepcopy=False) if Search.is_own(trial)]


def _open_storage(
    address: str, paths: StudyPaths
) -> tuple[optuna.storages.BaseStorage, SingleWriterJournal | None]:
    """The storage at `address`, and its journal if it is one."""
    if address == "journal":
        journal = SingleWriterJournal(paths.journal)
        return optuna.storages.JournalStorage(journal), journal
    import sqlalchemy

    shown = redact(address)
    sqlite = address.startswith("sqlite")
    try:
        storage = optuna.storages.RDBStorage(
            address,
            engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True},
        )
    except ImportError as error:
        raise UserError(
            f"storage {shown}: its driver is not installed; `pip install 'hpo[postgres]'`"
        ) from error
    except RuntimeError as error:  # a schema newer or older than this Optuna's
        raise UserError(
            f"storage {shown}: {error}\nInstall the Optuna that wrote it, or use another storage."
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = getattr(error, "orig", None) or error
        raise HpoError(f"storage {shown} cannot be opened: {str(cause).strip()}") from error
    if sqlite:  # readers do not block the writer, and a commit is on the disk
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        sqlalchemy.event.listen(
            storage.engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=FULL")
        )
    return storage, None


# -- the space, in Optuna's terms


def active_parameters(
    search: Mapping[str, Parameter], params: Mapping[str, Scalar]
) -> dict[str, Parameter]:
    """The parameters that exist in a configuration."""
    return {path: p for path, p in search.items() if is_active(p, params)}


def distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    match parameter:
        case Float(low=low, high=high, log=log, step=step):
            return optuna.distributions.FloatDistribution(low, high, log=log, step=step)
        case Int(low=low, high=high, log=log, step=step):
            return optuna.distributions.IntDistribution(low, high, log=log, step=step or 1)
        case Choice(choices=choices):
            return optuna.distributions.CategoricalDistribution(choices)


def _key(params: Mapping[str, Scalar]) -> tuple[tuple[str, Scalar], ...]:
    """What two equal configurations have in common: 0.30000000000000004 is 0.3."""
    return tuple(
        (path, f"{value:.12g}" if isinstance(value, float) else value)
        for path, value in sorted(params.items())
    )
