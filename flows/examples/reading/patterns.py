"""Sentences of our own making, out of patterns and lexicons: words that prose rarely has, names, numbers, dates,
questions and exclamations.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

from triforce.flows.examples.reading.numbers import cardinal, ordinal, year
from triforce.flows.examples.reading.sources import MAX_WORDS, MIN_WORDS, Sentence, fold

LICENCE = "Apache-2.0"
CATEGORIES = {
    "05": "animal",
    "06": "thing",
    "13": "food",
    "18": "person",
    "20": "plant",
    "27": "substance",
    "04": "activity",
    "09": "idea",
}
"""WordNet's lexicographer files that fill a slot."""

NAMES = (  # noqa: SIM905
    "Anna Ben Carla David Emily Frank Grace Henry Isabel Jack Karen Liam Maria Nathan Olivia Peter Quentin Rachel "
    "Samuel Teresa Ursula Victor Wendy Xavier Yvonne Zachary Amir Bianca Chen Diego Elena Farid Gita Hiroshi Ingrid "
    "Jamal Kofi Leila Mateo Nadia Omar Priya Rosa Sanjay Tomas Uma Vera Wei Yusuf Zoe"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()  # noqa: SIM905
MONTHS = "January February March April May June July August September October November December".split()  # noqa: SIM905
HOURS = "one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
UNITS = "miles pounds dollars people tickets gallons degrees pages seats boxes tons acres inches votes".split()  # noqa: SIM905

PATTERNS = """
{Word}, {word}, {word} and {word}.
{Word}, {word}, {word}, {word}, {word}, and finally {word}.
{Word} or {word}?
First comes {word}, then {word}, and then {word}.
The word {word} comes before {word} in the list.
The opposite of {adjective} is not {adjective}.
How do you spell {word}?
Can you say {word} and {word} three times?
Please write {word} next to {word}.
She said {word}, but he heard {word}.
I never know whether to say {word} or {word}.
What does {word} mean?
What is the difference between {word} and {word}?
Is {word} a real word?
That is not {word}, that is {word}!
{Name} and {name} met in {place} on {day}.
{Name} {surname} lives near {place}.
{Name} {surname} moved from {place} to {place} in {year}.
Did {name} {surname} call from {place}?
Have you ever been to {place}?
Is {place} far from {place}?
When did {name} leave {place}?
How far is it from {place} to {place}?
The train from {place} to {place} leaves at {clock}.
We landed in {place} at {clock} on {day} evening.
The {surname} family has a {thing} in {place}.
{Name} asked {name} for the {thing}.
Where did you put the {adjective} {thing}?
Why is the {thing} so {adjective}?
Who left the {thing} next to the {thing}?
What a {adjective} {thing}!
How {adverb} the {person} spoke!
Look at that {adjective} {animal}!
Watch out for the {animal}!
Don't touch the {thing}, it is {adjective}!
Give the {food} to the {person}, please.
Would you like some {food} with your {food}?
Does the {person} know about the {thing}?
Do you think the {person} is {adjective}?
Could the {animal} hide behind the {plant}?
Is that a {animal} or a {animal}?
Which {person} bought the {thing}?
The {person} {adverb} opened the {thing}.
The {adjective} {person} and the {adjective} {person} did not agree.
A {adjective} {animal} slept under the {plant}.
The {animal} ran {adverb} past the {thing}.
My {person} keeps {food} and {food} in the {thing}.
There was {substance} on the {thing} and {substance} on the floor.
They study {idea} and {activity} at school.
{Activity} is more {adjective} than {activity}.
I can't {verb} and {verb} at the same time.
We should not {verb} it, we should {verb} it.
Let's {verb} the {thing} before {day}!
Will they {verb} the {thing} again?
Why did the {person} {verb} the {thing}?
To {verb} is easy, to {verb} is hard.
You can {verb} the {food} or {verb} it.
The {person} wants to {verb} the {adjective} {thing}.
It costs {number} dollars and {small} cents.
The answer is {number}, not {number}.
There were {number} {unit} in {year}.
About {number} {unit}, give or take {small}.
Call me at {digit} {digit} {digit}, {digit} {digit} {digit} {digit}.
The code is {digit} {digit} {digit} {digit} {digit}.
It is {clock} on {day}, {month} {ordinal}.
The meeting on {month} {ordinal} starts at {clock}.
Were you born in {year} or in {year}?
On the {ordinal} of {month}, {year}, it rained in {place}.
Turn to page {small} and read line {small}.
Is it {small} or {small} degrees outside?
Only {small} percent of the {unit} were {adjective}.
He ran {small} point {digit} miles in {small} minutes.
""".strip().splitlines()


class Lexicon:
    """Words for the slots of patterns: those that both WordNet and the pronouncing dictionary know."""

    def __init__(self, root: Path) -> None:
        dictionary = (root / "usr/share/festival/dicts/cmu/cmudict-0.4.out").read_text(encoding="latin-1")
        pronounced = set(re.findall(r'^\("([a-z]{3,})" ', dictionary, re.MULTILINE))
        self.words: dict[str, list[str]] = {}
        for part in ("noun", "verb", "adj", "adv"):
            self._read(root / "usr/share/wordnet" / f"data.{part}", part, pronounced)
        known = {word for words in self.words.values() for word in words}
        rest = pronounced - {word.lower() for word in known}
        stem = re.compile(r"(?:s|es|d|ed|ing|er|est|ly)$")
        forms = {word for word in rest if stem.sub("", word) in known or word[:-3] in known}
        self.words["surname"] = sorted(word.capitalize() for word in rest - forms if 4 <= len(word) <= 11)
        self.words["word"] = sorted(forms | {word for word in known if word.islower()})

    def _read(self, path: Path, part: str, pronounced: set[str]) -> None:
        slots: dict[str, set[str]] = {}
        for line in path.read_text(errors="replace").splitlines():
            fields = line.split(" ")
            if line.startswith("  ") or (fields[4] not in pronounced and fields[4].lower() not in pronounced):
                continue
            word = re.sub(r"\(.*\)", "", fields[4])
            if part == "noun":
                slot = "place" if fields[1] == "15" and word[0].isupper() else CATEGORIES.get(fields[1])
            else:
                slot = {"verb": "verb", "adj": "adjective", "adv": "adverb"}[part]
            if slot and (slot == "place" or word.islower()):
                slots.setdefault(slot, set()).add(word)
        self.words |= {slot: sorted(words) for slot, words in slots.items()}


def _clock(rng: random.Random) -> str:
    minutes = rng.choice(["", " fifteen", " thirty", " forty-five", " oh five", " twenty", " ten", " fifty-two"])
    return rng.choice(HOURS) + minutes + rng.choice(["", "", " in the morning", " o'clock" if not minutes else ""])


FIGURES: dict[str, Callable[[random.Random], str]] = {
    "clock": _clock,
    "day": lambda rng: rng.choice(DAYS),
    "month": lambda rng: rng.choice(MONTHS),
    "name": lambda rng: rng.choice(NAMES),
    "unit": lambda rng: rng.choice(UNITS),
    "year": lambda rng: year(rng.randint(1700, 2040)),
    "digit": lambda rng: cardinal(rng.randint(0, 9)),
    "small": lambda rng: cardinal(rng.randint(2, 99)),
    "ordinal": lambda rng: ordinal(rng.randint(1, 31)),
    "number": lambda rng: cardinal(int(10 ** rng.uniform(1, 6.5))),
}


def pattern_sentences(root: Path, num: int, seed: int = 0) -> list[Sentence]:
    """Return ``num`` different sentences; ``root`` is ``sources.unpack``'s folder."""
    lexicon, rng = Lexicon(root), random.Random(seed)

    def fill(match: re.Match[str]) -> str:
        slot = match[1].lower()
        word = FIGURES[slot](rng) if slot in FIGURES else rng.choice(lexicon.words[slot])
        return word[0].upper() + word[1:] if match[1][0].isupper() else word

    found: dict[str, Sentence] = {}
    while len(found) < num:
        text = re.sub(r"\{(\w+)\}", fill, rng.choice(PATTERNS))
        text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            found.setdefault(fold(text), Sentence(text, "patterns", LICENCE))
    return list(found.values())
