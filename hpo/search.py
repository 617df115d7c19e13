"""The study in Optuna: open or resume it, ask, report, tell.

Only the orchestrator calls this. Everything goes through Optuna's public objects, so that
``optuna-dashboard`` and ``study.trials_dataframe()`` show true states, values and curves.

What is promised: with the same seed and the same finished trials, the suggestion for trial number
n is the same, also after a restart (the samplers' random streams are set anew for each trial;
GPSampler's warm-started kernel is the exception). What is not: suggestions computed while other
trials train depend on what had finished by then.
"""

from __future__ import annotations

import contextlib
import random
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from hpo import changes, new_space
from hpo.errors import RecordsLost, StorageLost, UserError
from hpo.history import History, State, TrialHistory, seed_for
from hpo.migrate import storage_of
from hpo.paths import StudyPaths
from hpo.ranks import RankHalving
from hpo.samplers import (
    MOST_LISTED,
    choose_pruner,
    choose_sampler,
    make_pruner,
    make_sampler,
    reseed,
)
from hpo.spec import Choice, Float, Int, Parameter, Scalar, StudySpec
from hpo.spec.space import contains, grid, grid_size, is_active
from hpo.storages import Journal, check_not_moved, open_storage, place
from hpo.tracking import outbox
from hpo.tracking.redact import redact

if TYPE_CHECKING:
    from hpo.database import Database

# A trial's own facts lie in one user attribute, so that one write stores them all.
ATTRIBUTE = "hpo"
MOST_REPEATS = 20  # duplicates in a row before a space counts as searched

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


@dataclass(frozen=True)
class Learnt:
    """A complete trial of another study, which lies in the space of this one."""

    study: str
    params: Mapping[str, Scalar]
    value: float


class Search:
    """One Optuna study.

    Attributes:
        study_id: Chosen when it was made; the outbox names the same.
        sampler, pruner: Which they are, and why if hpo chose them.
    """

    def __init__(
        self,
        study: optuna.Study,
        spec: StudySpec,
        storage: Journal | Database,
        history: History,
        max_epochs: int | None,
    ) -> None:
        self.sampler = choose_sampler(spec, changes.chosen_before(history.study))
        self.pruner = choose_pruner(spec)
        self.study_id: str = study.user_attrs["hpo:study_id"]
        self._study = study
        self._spec = spec
        self._storage = storage
        self._several = len(spec.objective) > 1
        self._live: dict[int, optuna.Trial] = {}
        self._made = 0  # trials in the storage
        self._grid = self._shuffled_grid()
        self._seen: dict[tuple[tuple[str, Scalar], ...], int] = {}
        study.sampler = (
            optuna.samplers.RandomSampler()  # which is never asked
            if spec.strategy is not None
            else make_sampler(self.sampler.name, spec, self.is_own)
        )
        self._ranks = (
            RankHalving(self.pruner.name, spec.pruner.options, self._signs())
            if self._several and self.pruner.name != "none"
            else None
        )
        if not self._several:
            study.pruner = make_pruner(self.pruner.name, spec, history, max_epochs)
        self._count()
        for trial in study.get_trials(deepcopy=False):
            if self.is_own(trial) and trial.state.is_finished():
                self._remember(trial.params, trial.number)

    @property
    def learns(self) -> bool:
        """Whether what is suggested depends on the results of earlier trials."""
        return self.sampler.name not in ("random", "grid", "qmc")

    # -- asking

    def ask(self) -> Suggestion | None:
        """The next configuration, or None when there is no other left to try."""
        number = self._made
        if self._grid is not None:
            untried = next((p for p in self._grid if _key(p) not in self._seen), None)
            if untried is None and not self._has_waiting():
                return None
            if self.sampler.name == "grid" and untried is not None and not self._has_waiting():
                self._study.enqueue_trial(untried)
        reseed(self._study.sampler, seed_for(self._spec.seed, number, "suggest"))
        failures = self._storage.failures
        trial = self._study.ask()
        if self._storage.failures > failures:
            return self._lost_and_found()
        self._made = max(self._made, trial.number + 1)
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

    def ask_for(self, params: Mapping[str, Scalar]) -> Suggestion | None:
        """Make a trial of what somebody else has thought of; None: it was tried already.

        What `start_from` names comes first; what that leaves open is then as in `params`, or drawn
        where it is not there.
        """
        start = next(self._untried_starts(), {})
        given = _active({**params, **start}, self._spec.search)
        if _key(given) in self._seen:
            return None
        failures = self._storage.failures
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=given,
            distributions={path: distribution(self._spec.search[path]) for path in given},
        )
        trial_id = self._storage.create_new_trial(self._study_id(), template)
        if self._storage.failures > failures:
            return self._lost_and_found()
        number = self._storage.get_trial(trial_id).number
        self._made = max(self._made, number + 1)
        return self.again(number)

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
        """Whether the studies in `start_from` were learnt from, by this or an earlier run."""
        return bool(self._study.user_attrs.get("hpo:started"))

    def set_started(self) -> None:
        self._study.set_user_attr("hpo:started", True)

    def enqueue_starts(self) -> None:
        """Have the configurations of `start_from` that no trial has yet suggested before anything
        the sampler thinks of."""
        for item in self._untried_starts():
            self._study.enqueue_trial(dict(item), skip_if_exists=True)
        self._count()

    def learnt(self) -> list[Learnt]:
        """What `learn_from` has added, in this run or an earlier one."""
        return [
            Learnt(trial.user_attrs[ATTRIBUTE]["from_study"], trial.params, trial.values[0])
            for trial in self._study.get_trials(deepcopy=False)
            if not self.is_own(trial)
        ]

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
        self._count()
        return added

    # -- while a trial trains, and at its end

    def report(self, number: int, epoch: int, values: Sequence[float]) -> str | None:
        """Record an epoch's objective values; why the trial is to be pruned, or None."""
        if self._several:
            return self._ranks.report(number, epoch, values) if self._ranks else None
        self._live[number].report(values[0], epoch)
        return self.judge(number, epoch)

    def judge(self, number: int, epoch: int) -> str | None:
        """Why a trial is to be pruned at its newest epoch, which Optuna knows, or None."""
        if self._several or not self._live[number].should_prune():
            return None
        return f"{self.pruner.name} at epoch {epoch}"

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

    def pause(self, number: int, epoch: int) -> None:
        """Show of trial `number`, which stays RUNNING, that it is paused after an epoch."""
        self._live[number].set_user_attr(ATTRIBUTE, {"state": "paused", "epoch": epoch})

    def resume(self, number: int) -> None:
        """Show no longer that a trial is paused."""
        self._live[number].set_user_attr(ATTRIBUTE, {})

    def epochs(self, number: int) -> set[int]:
        """The epochs that Optuna knows of trial `number`."""
        frozen = self._storage.get_trial(self._live[number]._trial_id)
        return set(frozen.intermediate_values)

    def flush(self) -> None:
        """Let others see what was reported."""
        self._storage.flush()

    def commit(self) -> None:
        """Make everything told so far survive a crash of the machine."""
        self._storage.commit()

    def set_aside(self) -> None:
        """Show what is not over as waiting, until a later `again`."""
        while self._live:
            _, trial = self._live.popitem()
            self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def close(self) -> None:
        """Set aside what is not over, and close the storage."""
        with contextlib.suppress(StorageLost):  # then they stay RUNNING, which `again` takes, too
            self.set_aside()
        self._storage.close()

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
        self._storage.flush()  # all parameters together
        return params

    def _untried_starts(self) -> Iterator[Mapping[str, Scalar]]:
        """The configurations of `start_from` that no trial has yet, in order."""
        for item in self._spec.start_from:
            if isinstance(item, Mapping):
                key = set(_key(_active(item, self._spec.search)))
                if not any(key <= set(known) for known in self._seen):
                    yield item

    def _lost_and_found(self) -> Suggestion:
        """The first of the trials that were made while the connection was lost: a request may have
        arrived although its answer did not. Optuna gives out the others when it is asked again.
        """
        first, *others = sorted(set(self.unfinished()) - set(self._live))
        for number in others:
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(
                self._study_id(), number
            )
            self._storage.set_trial_state_values(trial_id, TrialState.WAITING)
        self._count()
        return self.again(first)

    def _count(self) -> None:
        """How many trials there are: counted only then, for a database has to be asked."""
        self._made = len(self._study.get_trials(deepcopy=False))

    def _remember(self, params: Mapping[str, Scalar], number: int) -> int | None:
        first = self._seen.setdefault(_key(params), number)
        return None if first == number else first

    def _shuffled_grid(self) -> list[dict[str, Scalar]] | None:
        """Every configuration in random order, where they can be listed; else None."""
        if not self._spec.search:
            return None
        size = grid_size(self._spec.search)
        if size is None or size > MOST_LISTED and self.sampler.name != "grid":
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
    spec: StudySpec,
    paths: StudyPaths,
    history: History,
    max_epochs: int | None,
    say: Callable[[str], None] = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Search:
    """Open the study in its storage, creating it if need be. The caller holds its lease.

    Trials that were drawn from a narrower search space are written anew (`hpo.new_space`).

    Args:
        history: What has happened in it; a pruner may read on in there.
        max_epochs: The most that a trial of the study trains, if that is known.
        say, is_stopped: As `hpo.storages.open_storage` wants them.

    Raises:
        HpoError: The storage cannot be opened.
        UserError: The storage cannot be used (its address, its version, a study of that name
            which is not hpo's), or it and the outbox are not of the same study.
    """
    check_not_moved(spec, history.moved_to)
    storage = open_storage(spec.storage, paths, say, is_stopped)
    try:
        study = _open_study(spec, paths, history, storage)
        space = {path: distribution(parameter) for path, parameter in spec.search.items()}
        changed = new_space.is_another(study, space)
        if changed:
            say("writing the trials so far into the search space of now …")
            new_space.replace(study, space, storage, paths)
    except BaseException:
        storage.close()
        raise
    if changed:
        storage.close()
        storage = open_storage(spec.storage, paths, say, is_stopped)
        study = optuna.load_study(storage=storage, study_name=spec.study)
    return Search(study, spec, storage, history, max_epochs)


def _open_study(
    spec: StudySpec, paths: StudyPaths, history: History, storage: optuna.storages.BaseStorage
) -> optuna.Study:
    directions = [objective.goal for objective in spec.objective]
    names = [s.study_name for s in storage.get_all_studies()]
    metrics = [objective.metric for objective in spec.objective]
    recorded_id = history.study["study_id"] if history.study else None
    if spec.study not in names:
        if history.trials:
            raise UserError(
                f"studies/{spec.study} has a record of this study, but the storage has no study "
                f"of that name.\nWas `storage` changed? Put it back, and move the study with "
                f"`hpo storage migrate {spec.study} --to …`, or start another: "
                f"`--set study={spec.study}-2`."
            )
        # It may exist all the same: made, and the connection lost before that was answered.
        study = optuna.create_study(
            storage=storage, study_name=spec.study, directions=directions, load_if_exists=True
        )
        _make_ours(study, metrics, recorded_id)
    else:
        study = optuna.load_study(storage=storage, study_name=spec.study)
        if not study.user_attrs and not study.get_trials(deepcopy=False):
            _make_ours(study, metrics, recorded_id)  # killed before that was done
        if "hpo:study_id" not in study.user_attrs:
            raise UserError(
                f"the storage has a study '{spec.study}' that hpo did not make.\n"
                "Choose another name: `study:` in the file, or `--set study=NAME`."
            )
        own = any(Search.is_own(trial) for trial in study.get_trials(deepcopy=False))
        if recorded_id != study.user_attrs["hpo:study_id"] and (recorded_id or own):
            raise UserError(
                f"the storage has a study '{spec.study}' whose record is not in "
                f"{paths.root}: it was run from elsewhere, or the record was lost.\n"
                f"Run it where it was begun (--home), bring its folder here, or start another: "
                f"`--set study={spec.study}-2`."
            )
        if recorded_id is None and [d.name.lower() for d in study.directions] != directions:
            # Nobody has begun with it, and the file has changed since.
            storage.delete_study(study._study_id)
            return _open_study(spec, paths, history, storage)
        _check_agrees(study, history, paths)
    return study


def _make_ours(study: optuna.Study, metrics: list[str], recorded_id: str | None) -> None:
    """Describe a new study; its id comes last, and says that the rest is there."""
    study.set_metric_names(metrics)
    study.set_user_attr("hpo:study_id", recorded_id or uuid.uuid4().hex)


def _check_agrees(study: optuna.Study, history: History, paths: StudyPaths) -> None:
    """Whatever happens to a trial is in the outbox before Optuna is told, and no trial begins
    that Optuna has not on the disk: where it is otherwise, a file was cut or replaced."""
    trials = {t.number: t for t in study.get_trials(deepcopy=False) if Search.is_own(t)}
    for number, trial in trials.items():
        recorded = history.trials.get(number) or TrialHistory(number, {})
        is_over = trial.state.is_finished() and recorded.end is None
        if is_over or set(trial.intermediate_values) - set(recorded.values):
            raise RecordsLost(
                f"{paths.outbox} lacks the end of what was acknowledged: Optuna knows of trial "
                f"{number} what is not in it. Nothing was changed.\n"
                f"{outbox.what_to_do(paths.outbox)}"
            )
    missing = sorted(set(history.trials) - set(trials))
    if missing:
        raise RecordsLost(
            f"Optuna's storage of {paths.root} lacks what was acknowledged: trial {missing[0]} "
            f"is on record and not in it. Nothing was changed.\n{outbox.what_to_do(paths.outbox)}"
        )


def earlier_trials(
    spec: StudySpec, paths: StudyPaths, name: str
) -> list[optuna.trial.FrozenTrial]:
    """The trials of another study, in the same storage or beside this one.

    Raises:
        UserError: There is no such study, or its objective is another.
    """
    other = StudyPaths(paths.root.parent / name)
    if spec.storage == "journal":
        journal = other.journal
        if not journal.is_file():
            raise _no_earlier(spec, other, "beside this one")
        backend = optuna.storages.journal.JournalFileBackend(str(journal))
        storage: optuna.storages.BaseStorage = optuna.storages.JournalStorage(backend)
    else:
        storage = open_storage(spec.storage, paths)
    try:
        study = optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        raise _no_earlier(spec, other, f"in {redact(spec.storage)}") from None
    metrics = [objective.metric for objective in spec.objective]
    if study.metric_names != metrics:
        raise UserError(
            f"start_from: study '{name}' searched for {study.metric_names}, this one for {metrics}"
        )
    return [trial for trial in study.get_trials(deepcopy=False) if Search.is_own(trial)]


def _no_earlier(spec: StudySpec, other: StudyPaths, where: str) -> UserError:
    name, recorded = other.root.name, storage_of(other)
    if recorded is None or place(recorded) == place(spec.storage):
        return UserError(f"start_from: there is no study '{name}' {where}")
    return UserError(
        f"start_from: the trials of study '{name}' are in another storage than this one's:\n"
        f"  storage: {redact(recorded)}\n"
        f"Begin this one there, or move that one: `hpo storage migrate {name} --to …`."
    )


# -- the space, in Optuna's terms


def active_parameters(
    search: Mapping[str, Parameter], params: Mapping[str, Scalar]
) -> dict[str, Parameter]:
    """The parameters that exist in a configuration."""
    return {path: p for path, p in search.items() if is_active(p, params)}


def _active(wanted: Mapping[str, Scalar], search: Mapping[str, Parameter]) -> dict[str, Scalar]:
    """Those of the values `wanted` whose conditions hold among them."""
    given: dict[str, Scalar] = {}
    for path, parameter in search.items():
        if path in wanted and is_active(parameter, given):
            given[path] = wanted[path]
    return given


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
