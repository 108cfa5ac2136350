"""Which of several things a phrase means, with reasons, or that it cannot be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, product

import numpy as np

from nbhelpers.multiview.frames import Body, gap
from nbhelpers.multiview.grammar import BETWEEN_THINGS, SIDES
from nbhelpers.multiview.phrases import Phrase, Relation
from nbhelpers.multiview.relations import Measure, measure, placed, related

CLEAR = 1.8  # how many times better than the next one a choice must be
ENOUGH = 0.3  # a relation that is fulfilled less is not
STANDING = 0.5  # share of the best score that a thing needs to be ranked among the nearest, leftmost and so on
BY_CLOSENESS = ("left of", "right of", "above", "below", "behind", "in front of")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A thing that a noun may mean.

    Attributes:
        number: of the object; two nouns may name the same one.
        name: for people, e.g. ``"chair 2"``.
        body: where it is for the viewer.
        likeness: how well it answers to the noun, 0 to 1.
    """

    number: int
    name: str
    body: Body = field(repr=False)
    likeness: float = 1.0


@dataclass(frozen=True, eq=False)
class Judgement:
    """What one relation says of one candidate.

    Attributes:
        relation: of the phrase.
        score: 0 to 1.
        why: a sentence.
        references: numbers of the other things that it was measured against.
    """

    relation: Relation
    score: float
    why: str
    references: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Verdict:
    """A candidate with its judgements.

    Attributes:
        candidate: see `Candidate`.
        judgements: one a relation that could be told.
        closeness: 0 to 1, to the things that the relations name; it breaks ties.
    """

    candidate: Candidate
    judgements: tuple[Judgement, ...] = ()
    closeness: float = 1.0

    @property
    def score(self) -> float:
        """Product of likeness and all judgements, 0 to 1."""
        return float(self.candidate.likeness * np.prod([each.score for each in self.judgements]))

    @property
    def why(self) -> str:
        """All reasons."""
        return "; ".join(f"{each.relation.words}: {each.score:.2f}, {each.why}" for each in self.judgements)


@dataclass(frozen=True, eq=False)
class Choice:
    """The answer to a phrase.

    Example:
        >>> choice = choose(parse("chair behind the desk"), {"chair": chairs, "desk": desks})
        >>> choice.best.name, choice.decided, choice.why
        ('chair 2', True, 'chair 2 (0.97): behind the desk: 0.97, its middle is 1.3 depths of the other farther away')

    Attributes:
        phrase: as asked.
        ranking: all candidates, the best first; none when no thing answers to the noun.
        decided: whether the first is clearly meant.
        why: a sentence for a person.
        missing: nouns that nothing answers to.
    """

    phrase: Phrase
    ranking: tuple[Verdict, ...]
    decided: bool
    why: str
    missing: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate | None:
        """The first of the ranking: what is meant when it is decided, else the best guess."""
        return self.ranking[0].candidate if self.ranking else None


def choose(phrase: Phrase, things: Mapping[str, Sequence[Candidate]]) -> Choice:
    """Find the thing that a phrase means.

    Relations to other things come first; what fulfils them is then ranked by sides and superlatives, so the "largest
    box on the table" need not be the largest of all. Where several things answer to the noun of a relation, the one
    that fits best counts. What is said behind the only thing of its kind is taken to be said of the first noun:
    with one table, "cup on the table on the left" means the left cup.

    Args:
        phrase: as `parse` gives it.
        things: candidates of each noun phrase of ``phrase.things()``.
    """
    own = list(things.get(phrase.noun, ()))
    if not own:
        return Choice(phrase, (), False, f'nothing looks like "{phrase.noun}"', (phrase.noun,))
    everything = list({c.number: c for each in things.values() for c in each}.values())
    verdicts, missing = [Verdict(candidate) for candidate in own], []
    orders = [relation for relation in phrase.relations if relation.kind not in BETWEEN_THINGS]
    for relation in phrase.relations:
        others = [choose(reference, things) for reference in relation.references]
        missing += [noun for other in others for noun in other.missing]
        if any(not other.ranking for other in others):
            orders = [order for order in orders if order is not relation]
            continue
        if relation.kind in BETWEEN_THINGS:
            verdicts = [_with(verdict, _to_others(relation, verdict.candidate, others)) for verdict in verdicts]
        for reference, other in zip(relation.references, others, strict=True):
            if len(other.ranking) == 1:
                orders += [r for r in reference.relations if r.kind not in BETWEEN_THINGS and not r.before]
    best = max(verdict.score for verdict in verdicts)
    standing = [verdict for verdict in verdicts if verdict.score >= STANDING * best]
    fallen = [verdict for verdict in verdicts if verdict.score < STANDING * best]
    for order in orders:
        others = [choose(reference, things).ranking[0].candidate for reference in order.references]
        standing = _ranked(order, standing, others[0] if others else None, everything)
    ranking = sorted(standing, key=lambda v: -v.score * v.closeness) + sorted(fallen, key=lambda v: -v.score)
    return _decided(phrase, tuple(ranking), tuple(dict.fromkeys(missing)))


def _with(verdict: Verdict, judgement: Judgement, closeness: float = 1.0) -> Verdict:
    closeness = getattr(judgement, "closeness", closeness)
    return replace(verdict, judgements=(*verdict.judgements, judgement), closeness=verdict.closeness * closeness)


@dataclass(frozen=True, eq=False)
class _Close(Judgement):
    """A judgement with the closeness to the other thing."""

    closeness: float = 1.0


def _to_others(relation: Relation, candidate: Candidate, others: Sequence[Choice]) -> Judgement:
    """The best judgement over all things that the relation may name."""
    pools = [_pool(other) for other in others]
    if relation.kind == "between" and len(pools) == 1:
        groups = [pair for pair in permutations(pools[0], 2) if pair[0][0].number < pair[1][0].number]
    else:
        groups = list(product(*pools))
    judged = []
    for group in groups:
        named = [each for each, _ in group]
        numbers = {each.number for each in named}
        if candidate.number in numbers or len(numbers) < len(named):
            continue
        score, why = related(relation.kind, candidate.body, [each.body for each in named])
        score = 1 - score if relation.negated else score
        close = 1.0
        if relation.kind in BY_CLOSENESS:
            size = 0.5 * (candidate.body.reach + named[0].body.reach)
            close = 1 / (1 + 0.5 * gap(candidate.body, named[0].body) / size)
        weight = float(np.prod([worth for _, worth in group]))
        text = f"{why} ({', '.join(each.name for each in named)})"
        judged.append(_Close(relation, score * weight, text, tuple(each.number for each in named), close))
    if not judged:
        return Judgement(relation, 0.0, "it is the other thing itself")
    return max(judged, key=lambda each: each.score * each.closeness)


def _pool(other: Choice) -> list[tuple[Candidate, float]]:
    """The things that a reference may mean, each with its worth; one alone if it is decided which."""
    first = other.ranking[0].score
    if other.decided:
        return [(other.ranking[0].candidate, 1.0)]
    return [(each.candidate, each.score / first if first else 1.0) for each in other.ranking]


def _ranked(
    order: Relation, verdicts: list[Verdict], other: Candidate | None, everything: Sequence[Candidate]
) -> list[Verdict]:
    """Judge an order or a side among those that are left."""
    bodies = [verdict.candidate.body for verdict in verdicts]
    measures = [measure(order.kind, body, other.body if other else None) for body in bodies]
    ranked = np.argsort([-each.value for each in measures], kind="stable").tolist()
    beyond = order.rank > len(ranked)
    target = ranked[-1] if order.rank == -1 or beyond else ranked[order.rank - 1]
    names = (other.number,) if other else ()
    out = []
    for index, verdict in enumerate(verdicts):
        score = 0.2 if beyond else _share(index, target, ranked, measures)
        why = measures[index].why
        if order.kind in SIDES:
            absolute, where = placed(order.kind, verdict.candidate.body, [each.body for each in everything])
            score, why = score * float(np.sqrt(absolute)), where
        if beyond:
            why = f"there are only {len(ranked)}"
        elif len(ranked) > 1:
            why += f", number {ranked.index(index) + 1} of {len(ranked)}"
        out.append(_with(verdict, Judgement(order, 1 - score if order.negated else score, why, names)))
    return out


def _share(index: int, target: int, ranked: Sequence[int], measures: Sequence[Measure]) -> float:
    """How surely a thing is the one that is asked for, given how far the numbers may be off."""

    def odds(one: int, two: int) -> float:
        noise = max(1e-12, float(np.hypot(measures[one].noise, measures[two].noise)))
        return float(1 / (1 + np.exp(-min(30.0, 2 * abs(measures[one].value - measures[two].value) / noise))))

    if index != target:
        return 1 - odds(index, target)
    place = ranked.index(target)
    beside = [ranked[i] for i in (place - 1, place + 1) if 0 <= i < len(ranked)]
    return min((odds(target, each) for each in beside), default=1.0)


def _decided(phrase: Phrase, ranking: tuple[Verdict, ...], missing: tuple[str, ...]) -> Choice:
    first, name = ranking[0], ranking[0].candidate.name
    told = f"{name} ({first.score:.2f})" + (f": {first.why}" if first.judgements else "")
    if missing:
        lost = " and ".join(f'"{noun}"' for noun in missing)
        return Choice(phrase, ranking, False, f"nothing looks like {lost}; best guess {told}", missing)
    unmet = [each for each in first.judgements if each.score < ENOUGH]
    if unmet:
        why = f'no "{phrase.noun}" fulfils "{unmet[0].relation.words}"; best guess {told}'
        return Choice(phrase, ranking, False, why)
    if len(ranking) == 1:
        return Choice(phrase, ranking, True, f"the only one: {told}")
    second = ranking[1]
    if first.score * first.closeness >= CLEAR * second.score * second.closeness:
        nearer = first.score < CLEAR * second.score
        return Choice(phrase, ranking, True, told + (", and it is the closer one" if nearer else ""))
    why = f"{name} and {second.candidate.name} fit alike"
    why += f": {first.score:.2f} and {second.score:.2f}" if first.judgements else '; say which, as "nearest" or "left"'
    return Choice(phrase, ranking, False, why)
