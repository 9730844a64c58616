"""Rounds of further trials for all arms while the best trial of an arm lies at an end of its searched space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tvlars.lab.errors import UsageError, listed
from tvlars.lab.experiments.tuning.config import TuneConfig
from tvlars.lab.experiments.tuning.folder import Round, Stored
from tvlars.lab.experiments.tuning.space import Choice
from tvlars.lab.experiments.tuning.stages import Edge, Stage, further_stage, trials_of_round
from tvlars.lab.experiments.tuning.trial import Tuned, without_reruns
from tvlars.lab.given import Given
from tvlars.lab.imported import said_path
from tvlars.lab.training.prepare import prepare

if TYPE_CHECKING:
    from tvlars.lab.experiments.tuning.search import Search


class Widening:
    """Edges of all arms of a call, and the rounds that follow from them.

    Args:
        config: options of the tuning.
        searches: searches of the arms of this call.
        given: data and other objects of all runs, for checks of options.
        stored: content of tune.json, to which rounds are added.
    """

    def __init__(self, config: TuneConfig, searches: Sequence[Search], given: Given, stored: Stored) -> None:
        self.config, self.searches, self.given, self.stored = config, searches, given, stored

    def edges(self, search: Search, first_seed: bool = False) -> list[Edge]:
        """Return the edges at which an arm's best trial lies, ranked by all tuning seeds or only by the first."""
        best = self._best(search, first_seed)
        return search.explored().edges(best, lambda params: self._takes(search, params)) if best else []

    def next_round(self, first_seed: bool) -> str | None:
        """Plan the next round, and return a line about it; None if there is none.

        Arms that missed a round of an earlier call first catch up with as many trials. A new round starts if an arm's
        best trial, ranked by all tuning seeds or only by the first, lies at an edge, or if no trial of an arm finished.

        Raises:
            UsageError: the space of an arm has no more points.
        """
        behind = [search for search in self.searches if len(search.stages) <= len(self.stored.rounds)]
        if behind:
            place = min(len(search.stages) for search in behind) - 1
            one = self.stored.rounds[place]
            late = [search for search in behind if len(search.stages) - 1 == place]
            one.stages.update({search.arm: self._stage(search, one.trials, first_seed) for search in late})
            names = listed(said_path(search.arm) for search in late)
            return f"{one.trials} further trials of {names}, as other arms had in round {place + 1} of widening"
        if len(self.stored.rounds) >= self.config.widen:
            return None
        why = [said_path(search.arm) for search in self.searches if self._wants_more(search, first_seed)]
        if not why:
            return None
        count = trials_of_round(self.config.trials)
        stages = {search.arm: self._stage(search, count, first_seed) for search in self.searches}
        self.stored.rounds.append(Round(count, self.searches[0].budget, stages))
        number = f"round {len(self.stored.rounds)} of {self.config.widen} at most"
        return f"the best trial of {listed(why)} is at an edge: {count} further trials of each arm, {number}"

    def queue(self) -> None:
        """Add the trials of planned rounds to the searches."""
        for search in self.searches:
            for stage in self.stored.stages(search.arm)[len(search.stages) - 1 :]:
                search.add(stage)

    def _best(self, search: Search, first_seed: bool) -> dict[str, Any] | None:
        trials = search.trials
        best = Tuned.of(
            search.arm, without_reruns(trials) if first_seed else trials, () if first_seed else search.again
        )
        return best.best.params if best.best else None

    def _wants_more(self, search: Search, first_seed: bool) -> bool:
        explored = search.explored()
        if self._best(search, first_seed) is None:
            return bool(explored.names())
        return any(explored.can_widen(edge) for edge in self.edges(search, first_seed))

    def _stage(self, search: Search, count: int, first_seed: bool) -> Stage:
        explored, seed = search.explored(), self.config.tune_seeds[0]
        kept = [name for name, one in search.space.items() if isinstance(one, Choice) and search.is_category(name)]
        if explored.listed and (numbers := [name for name in explored.names() if name in kept]):
            raise UsageError(
                f"widen must be 0 in a folder of an earlier version, where the values of {numbers[0]} cannot be "
                "extended: use a new folder"
            )
        best, edges = self._best(search, first_seed), self.edges(search, first_seed)
        valid = lambda params: self._takes(search, params)  # noqa: E731
        return further_stage(explored, count, best, edges, valid, self.config.sampler, seed, said_path(search.arm))

    def _takes(self, search: Search, params: dict[str, Any]) -> bool:
        """Return whether these options are valid for a run of an arm."""
        try:
            prepare(self.config.trial(search.arm, params), self.given, here=False)
        except UsageError:
            return False
        return True
