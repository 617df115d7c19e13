"""Samplers and pruners: what each is called in a study file, and its options.

The names of the options are Optuna's, and so are their defaults, unless a description says
otherwise. Only options that the file gives are passed on.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_EpochOrAuto = Annotated[int, Field(ge=1)] | Literal["auto"]


class MethodOptions(BaseModel):
    """The options of a sampler or a pruner. This one has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Auto(MethodOptions):
    """Picked by hpo for the space and the budget; it says which."""


class Tpe(MethodOptions):
    """Tree-structured Parzen estimator: any space, many trials."""

    n_startup_trials: int = Field(10, ge=0, description="Random trials at the beginning.")
    n_ei_candidates: int = Field(24, ge=1, description="Candidates that are compared each time.")
    multivariate: bool | None = Field(
        None, description="Model the parameters together. Absent: true."
    )
    group: bool = Field(
        False, description="Model the parameters that occur together. Absent: if some have `when`."
    )
    constant_liar: bool = Field(
        True, description="Keep away from what is being trained at the moment."
    )


class Gp(MethodOptions):
    """Gaussian process: few numeric parameters, costly trials."""

    n_startup_trials: int = Field(10, ge=0, description="Random trials at the beginning.")
    deterministic_objective: bool = Field(
        False, description="The same configuration always has the same value."
    )


class CmaEs(MethodOptions):
    """Covariance matrix adaptation: numeric parameters, hundreds of trials."""

    sigma0: float | None = Field(
        None, gt=0, description="The first steps' size. Absent: a sixth of the range."
    )
    n_startup_trials: int = Field(1, ge=0, description="Random trials at the beginning.")
    consider_pruned_trials: bool = Field(False, description="Learn from pruned trials too.")
    popsize: int | None = Field(
        None, ge=2, description="Trials a generation. Absent: by the number of parameters."
    )
    use_separable_cma: bool = Field(False, description="Take the parameters as independent.")
    with_margin: bool = Field(False, description="Keep steps from vanishing in whole numbers.")
    lr_adapt: bool = Field(False, description="Adapt the learning rate, for noisy objectives.")

    @model_validator(mode="after")
    def _checked(self) -> CmaEs:
        if self.use_separable_cma and self.with_margin:
            raise ValueError("use_separable_cma and with_margin exclude each other")
        if self.lr_adapt and (self.use_separable_cma or self.with_margin):
            raise ValueError("lr_adapt excludes use_separable_cma and with_margin")
        return self


class Random(MethodOptions):
    """Independent draws."""


class Qmc(MethodOptions):
    """Quasi-random draws that spread evenly."""

    qmc_type: Literal["sobol", "halton"] = Field("sobol", description="The sequence.")
    scramble: bool = Field(False, description="Randomize the sequence by the seed. Absent: true.")


class Grid(MethodOptions):
    """Every configuration once, in random order; each range of numbers needs a step."""


class Nsga2(MethodOptions):
    """A genetic algorithm for several objectives."""

    population_size: int = Field(50, ge=2, description="Trials a generation.")
    mutation_prob: float | None = Field(
        None, ge=0, le=1, description="Of a parameter. Absent: 1 / their number."
    )
    crossover_prob: float = Field(0.9, ge=0, le=1, description="Of two parents.")
    swapping_prob: float = Field(0.5, ge=0, le=1, description="Of a parameter, in a crossover.")


class Nsga3(Nsga2):
    """A genetic algorithm for many objectives."""

    dividing_parameter: int = Field(3, ge=1, description="Density of the reference points.")


class Nothing(MethodOptions):
    """Every trial is trained to its end."""


class _Percentiles(MethodOptions):
    n_startup_trials: int = Field(5, ge=0, description="First trials, which are never pruned.")
    n_warmup_steps: int = Field(0, ge=0, description="First epochs, in which nothing is pruned.")
    interval_steps: int = Field(1, ge=1, description="Epochs from one look to the next.")
    n_min_trials: int = Field(1, ge=1, description="Trials to compare with, at least.")


class Median(_Percentiles):
    """Ends a trial that is worse than the median of the others at that epoch."""


class Percentile(_Percentiles):
    """Ends a trial that is not among the best percent of the others at that epoch."""

    percentile: float = Field(ge=0, le=100, description="So many percent go on.")


class SuccessiveHalving(MethodOptions):
    """Lets the best part of the trials go on, at epochs that grow by a factor."""

    min_resource: _EpochOrAuto = Field(
        "auto", description="The first epoch of decision. Absent: 1."
    )
    reduction_factor: int = Field(4, ge=2, description="One of so many goes on.")
    min_early_stopping_rate: int = Field(
        0, ge=0, description="The first epoch of decision, moved by so many factors."
    )
    bootstrap_count: int = Field(0, ge=0, description="Trials to wait for before deciding.")

    @model_validator(mode="after")
    def _checked(self) -> SuccessiveHalving:
        given = "min_resource" in self.model_fields_set
        if self.bootstrap_count and given and self.min_resource == "auto":
            raise ValueError("bootstrap_count needs a min_resource that is a number")
        return self


class Hyperband(MethodOptions):
    """Successive halving in several brackets, from strict to lenient."""

    min_resource: int = Field(1, ge=1, description="The first epoch of decision.")
    max_resource: _EpochOrAuto = Field(
        "auto", description="The last epoch. Absent: `train.epochs`."
    )
    reduction_factor: int = Field(3, ge=2, description="One of so many goes on.")
    bootstrap_count: int = Field(0, ge=0, description="Trials to wait for before deciding.")

    @model_validator(mode="after")
    def _checked(self) -> Hyperband:
        if self.max_resource != "auto" and self.max_resource < self.min_resource:
            raise ValueError(
                f"max_resource {self.max_resource} is below min_resource {self.min_resource}"
            )
        return self


class Patient(MethodOptions):
    """Ends a trial that has not improved for some epochs."""

    patience: int = Field(ge=0, description="Epochs without improvement to wait for.")
    min_delta: float = Field(0.0, ge=0, description="A loss up to this is none.")
    wrapped: Literal["median", "successive_halving", "hyperband", "wilcoxon"] | None = Field(
        None, description="End it only if this pruner would, too."
    )


class Threshold(MethodOptions):
    """Ends a trial whose objective is outside bounds."""

    lower: float | None = Field(None, description="Ended below this.")
    upper: float | None = Field(None, description="Ended above this.")
    n_warmup_steps: int = Field(0, ge=0, description="First epochs, in which nothing is pruned.")
    interval_steps: int = Field(1, ge=1, description="Epochs from one look to the next.")

    @model_validator(mode="after")
    def _checked(self) -> Threshold:
        if self.lower is None and self.upper is None:
            raise ValueError("threshold needs lower, upper or both")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ValueError(f"lower {self.lower:g} is above upper {self.upper:g}")
        return self


class Wilcoxon(MethodOptions):
    """Ends a trial that is worse than the best one, fold by fold at that epoch, by a rank test."""

    p_threshold: float = Field(
        0.05, gt=0, lt=1, description="A smaller one prunes less; of n folds 1/2ⁿ is the least p."
    )
    n_warmup_steps: int | None = Field(
        None,
        ge=0,
        description="First epochs, in which nothing is pruned. Absent: a third of `train.epochs`.",
    )


class FreezeThaw(MethodOptions):
    """Trials pause at some epochs, and those go on whose curves promise most.

    Which ones a Gaussian process over configurations and epochs says: `hpo.freeze_thaw`.
    """

    max_paused: int = Field(
        100, ge=1, description="Paused trials at most; the least promising ones are ended."
    )
    max_paused_gb: float = Field(
        20.0, gt=0, description="What paused trials may take of the disk, in 10⁹ bytes."
    )


SAMPLERS: dict[str, type[MethodOptions]] = {
    "auto": Auto,
    "tpe": Tpe,
    "gp": Gp,
    "cma-es": CmaEs,
    "random": Random,
    "qmc": Qmc,
    "grid": Grid,
    "nsga2": Nsga2,
    "nsga3": Nsga3,
}

PRUNERS: dict[str, type[MethodOptions]] = {
    "auto": Auto,
    "none": Nothing,
    "median": Median,
    "percentile": Percentile,
    "successive_halving": SuccessiveHalving,
    "hyperband": Hyperband,
    "patient": Patient,
    "threshold": Threshold,
    "wilcoxon": Wilcoxon,
}

STRATEGIES: dict[str, type[FreezeThaw]] = {"freeze-thaw": FreezeThaw}

# With several objectives, trials are pruned by non-dominated rank at the rungs of these.
PRUNERS_OF_SEVERAL = ("auto", "none", "successive_halving", "hyperband")
