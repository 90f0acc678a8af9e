"""Sentences about a scene, in English and Chinese, with varied wording; and the vocabulary they are made of.

A caption states some of a scene's attributes. `caption` returns which, so that retrieval can be scored fairly.
"""

from __future__ import annotations

import random
import re

from .scenes import BACKGROUNDS, COLOURS, OBJECTS, OPPOSITE, RELATIONS, SIZES, WORDS, Scene, Thing

Stated = dict[str, object]

SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
# The first is the plain name, said most of the time; the others are what people type as well.
OBJECT_WORDS = {
    "star": ("star",),
    "heart": ("heart",),
    "house": ("house", "home", "cottage", "hut"),
    "tree": ("tree", "pine", "fir tree", "christmas tree"),
    "moon": ("moon", "crescent moon", "half moon"),
    "fish": ("fish",),
    "boat": ("boat", "ship", "sailboat", "sailing boat"),
    "apple": ("apple",),
    "flower": ("flower", "blossom", "daisy"),
    "car": ("car", "automobile"),
    "mushroom": ("mushroom", "toadstool"),
    "cup": ("cup", "mug", "coffee cup", "teacup"),
}
COLOUR_WORDS = {colour: (colour,) for colour in COLOURS} | {"purple": ("purple", "violet"), "red": ("red", "crimson")}
BACKGROUND_PHRASES = {
    "night sky": ("on a night sky", "in the night sky", "at night", "under the stars in the night sky"),
    "blue sky": ("on a blue sky", "in the blue sky", "in a blue sky with clouds", "in the sky by day"),
    "meadow": ("on a meadow", "in a meadow", "on the grass", "in a green meadow"),
    "sea": ("on the sea", "at sea", "by the sea", "in front of the sea", "on the ocean"),
    "desert": ("in the desert", "in a desert", "on the sand", "on desert sand"),
    "snow": ("in the snow", "on snow", "on a snowy field", "in a snowy winter"),
}
POSITION_PHRASES = {
    "left": ("on the left", "at the left side"),
    "right": ("on the right", "at the right side"),
    "top": ("at the top", "high up"),
    "bottom": ("at the bottom", "low down"),
    "middle": ("in the middle", "in the center"),
}
# The first is the plain word, said most of the time.
RELATION_PHRASES = {
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
    "left of": ("to the left of", "left of", "on the left of"),
    "right of": ("to the right of", "right of", "on the right of"),
}
OPENINGS = (
    "",
    "",
    "",
    "",
    "a picture of ",
    "a drawing of ",
    "an image of ",
    "a painting of ",
    "a storybook page with ",
)
WORD_PHRASES = (
    'with the word "{}" on it',
    'that says "{}"',
    'with "{}" written on it',
    'with a sign that reads "{}"',
    'labelled "{}"',
)

ZH_OBJECTS = {
    "star": ("颗", "星星"),
    "heart": ("颗", "爱心"),
    "house": ("座", "房子"),
    "tree": ("棵", "树"),
    "moon": ("个", "月亮"),
    "fish": ("条", "鱼"),
    "boat": ("艘", "船"),
    "apple": ("个", "苹果"),
    "flower": ("朵", "花"),
    "car": ("辆", "汽车"),
    "mushroom": ("个", "蘑菇"),
    "cup": ("个", "杯子"),
}
ZH_OBJECT_WORDS = {
    "star": ("星",),
    "heart": ("心",),
    "house": ("房屋", "小屋"),
    "tree": ("松树", "圣诞树"),
    "moon": ("弯月",),
    "boat": ("小船", "帆船"),
    "flower": ("花朵", "小花"),
    "car": ("车", "轿车"),
    "cup": ("茶杯", "水杯"),
}
ZH_COLOUR_WORDS = {"pink": ("粉红色的",), "orange": ("橘色的",)}
ZH_COLOURS = {
    "red": "红色的",
    "orange": "橙色的",
    "yellow": "黄色的",
    "green": "绿色的",
    "blue": "蓝色的",
    "purple": "紫色的",
    "pink": "粉色的",
    "white": "白色的",
}
ZH_SIZES = {"small": "小小的", "big": "大大的"}
ZH_BACKGROUNDS = {
    "night sky": ("夜空中", "夜空里", "晚上的夜空中"),
    "blue sky": ("蓝天上", "蓝天白云里", "天空中"),
    "meadow": ("草地上", "绿色的草地上", "草原上"),
    "sea": ("大海上", "海面上", "海边"),
    "desert": ("沙漠里", "沙漠中", "沙地上"),
    "snow": ("雪地里", "雪地上", "冬天的雪地里"),
}
ZH_POSITIONS = {"left": "左边", "right": "右边", "top": "上方", "bottom": "下方", "middle": "中间"}
ZH_RELATIONS = {
    "above": ("上面", "上方"),
    "below": ("下面", "下方"),
    "left of": ("左边", "左侧"),
    "right of": ("右边", "右侧"),
}

# Asked of a picture nobody described in full: words people will type although no template uses them.
EXTRA_WORDS = (
    "is",
    "are",
    "there",
    "one",
    "two",
    "photo",
    "this",
    "and",
    "it",
    "its",
    "photograph",
    "nothing",
    "一幅",
    "画",
)
CHINESE = 0.4  # share of the captions: with a quarter, which of two things is above was not learnt in Chinese
SOMETHING, ZH_SOMETHING = "something", "东西"  # a thing of two of which a caption does not say what it is


def caption(
    scene: Scene, rng: random.Random, language: str | None = None, full: bool = False, chinese: float = CHINESE
) -> tuple[str, Stated]:
    """A sentence about `scene` and the attributes it states.

    Of two things, either may be just "something": what a caption leaves open is how parts of it get a meaning of their
    own in CLIP's embedding.

    language: "en", "zh" or None for a mixture, of which the share `chinese` is Chinese. full: state object, colour and
    background always.
    """
    language = language or ("zh" if rng.random() < chinese else "en")
    stated: Stated = {"things": [], "background": None, "relation": None, "position": None, "word": None}
    keep = 1.0 if full else 0.92
    if full or rng.random() < 0.9:
        stated["background"] = scene.background
    pair_keep = 1.0 if full or len(scene.things) == 1 else 0.8
    for thing in scene.things:
        said = {"kind": thing.kind, "colour": thing.colour if rng.random() < keep * pair_keep else None, "size": None}
        if rng.random() >= pair_keep:
            said["kind"] = None
        if len(scene.things) == 1 and thing.size != "medium" and rng.random() < 0.55:
            said["size"] = thing.size
        stated["things"].append(said)
    if scene.relation:
        stated["relation"] = scene.relation if full or rng.random() < 0.9 else None
    elif scene.position in POSITION_PHRASES and scene.things[0].size != "big" and rng.random() < 0.45:
        stated["position"] = scene.position
    stated["word"] = scene.word if scene.word and (full or rng.random() < 0.92) else None
    return (_english if language == "en" else _chinese)(stated, rng), stated


def matches(stated: Stated, scene: Scene) -> bool:
    """Whether `scene` has every attribute a caption stated."""
    if len(stated["things"]) != len(scene.things) or stated["background"] not in (None, scene.background):
        return False
    if stated["word"] not in (None, scene.word) or not _is_at(scene, stated["position"]):
        return False
    if stated["relation"] and stated["relation"] != scene.relation:
        if OPPOSITE[stated["relation"]] != scene.relation:
            return False
        return all(map(_fits, reversed(stated["things"]), scene.things))
    if all(map(_fits, stated["things"], scene.things)):
        return True
    return not stated["relation"] and all(map(_fits, reversed(stated["things"]), scene.things))


def _is_at(scene: Scene, position: object) -> bool:
    """Whether the (first) object stands there: placed so, or free to stand anywhere and happening to."""
    if position is None or position == scene.position:
        return True
    thing = scene.things[0]
    free = 0.5 - thing.width / 2 - 0.04  # how far the centre can leave the middle
    x, y = (thing.x - 0.5) / free, (thing.y - 0.5) / free
    along, across = {"left": (-x, y), "right": (x, y), "top": (-y, x), "bottom": (y, x)}.get(position, (1 - abs(x), y))
    return scene.position == "anywhere" and along >= 0.5 and abs(across) <= 0.5


def _fits(said: dict, thing: Thing) -> bool:
    return (
        said["kind"] in (None, thing.kind)
        and said["colour"] in (None, thing.colour)
        and said["size"] in (None, thing.size)
    )


def _varied(names: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice(names) if rng.random() < 0.25 else names[0]


def _noun_en(said: dict, rng: random.Random) -> str:
    if not said["kind"]:
        return " ".join([SOMETHING, *([_varied(COLOUR_WORDS[said["colour"]], rng)] if said["colour"] else [])])
    words = [rng.choice(SIZE_WORDS[said["size"]])] if said["size"] else []
    words += [_varied(COLOUR_WORDS[said["colour"]], rng)] if said["colour"] else []
    words.append(_varied(OBJECT_WORDS[said["kind"]], rng))
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def _english(stated: Stated, rng: random.Random) -> str:
    nouns = [_noun_en(said, rng) for said in stated["things"]]
    if len(nouns) == 1:
        text = nouns[0]
    elif stated["relation"]:
        phrases = RELATION_PHRASES[stated["relation"]]
        relation = rng.choice(phrases) if rng.random() < 0.5 else phrases[0]
        text = f"{nouns[0]} {relation} {nouns[1]}"
    else:
        text = f"{nouns[0]} and {nouns[1]}"
    if stated["word"]:
        text += " " + rng.choice(WORD_PHRASES).format(stated["word"])
    place = rng.choice(BACKGROUND_PHRASES[stated["background"]]) if stated["background"] else ""
    if stated["position"]:
        text += " " + rng.choice(POSITION_PHRASES[stated["position"]])
    if place and rng.random() < 0.12:
        return f"{place}, there is {text}"
    return rng.choice(OPENINGS) + f"{text} {place}".strip()


def _noun_zh(said: dict, rng: random.Random) -> str:
    measure, noun = ZH_OBJECTS[said["kind"]] if said["kind"] else ("个", ZH_SOMETHING)
    noun = _varied((noun, *ZH_OBJECT_WORDS.get(said["kind"], ())), rng)
    colour = said["colour"] and _varied((ZH_COLOURS[said["colour"]], *ZH_COLOUR_WORDS.get(said["colour"], ())), rng)
    return f"一{measure}{ZH_SIZES.get(said['size'], '')}{colour or ''}{noun}"


def _chinese(stated: Stated, rng: random.Random) -> str:
    nouns = [_noun_zh(said, rng) for said in stated["things"]]
    place = rng.choice(ZH_BACKGROUNDS[stated["background"]]) if stated["background"] else ""
    if len(nouns) == 1:
        text = nouns[0]
    elif stated["relation"]:
        text = f"{nouns[0]}在{nouns[1]}{rng.choice(('的', ''))}{_varied(ZH_RELATIONS[stated['relation']], rng)}"
    else:
        text = f"{nouns[0]}和{nouns[1]}"
    if stated["word"]:
        text += rng.choice(("，上面写着“{}”", "，牌子上写着“{}”")).format(stated["word"])
    if stated["position"]:
        text += f"，在{ZH_POSITIONS[stated['position']]}"
    if place and len(nouns) == 1 and rng.random() < 0.5:
        return f"{place}的{text}"
    if place:
        return f"{place}有{text}"
    return text


def vocabulary() -> tuple[str, ...]:
    """Every word and character the captions can contain, sorted: the storybook CLIP's small vocabulary.

    English by words, Chinese by characters, quotes as '"'; other punctuation is not spoken.
    """
    groups = (
        *(SIZE_WORDS, OBJECT_WORDS, COLOUR_WORDS, BACKGROUND_PHRASES, POSITION_PHRASES, RELATION_PHRASES),
        *(ZH_OBJECTS, ZH_BACKGROUNDS, ZH_OBJECT_WORDS, ZH_COLOUR_WORDS, ZH_RELATIONS),
    )
    sources = [
        *OBJECTS, *COLOURS, *BACKGROUNDS, *SIZES, *RELATIONS, *WORDS, *OPENINGS, *WORD_PHRASES, *EXTRA_WORDS,
        *(word for group in groups for words in group.values() for word in words),
        *ZH_COLOURS.values(), *ZH_SIZES.values(), *ZH_POSITIONS.values(),
        "一在的和有上面写着牌子", "an there is to the of and a", SOMETHING, ZH_SOMETHING,
    ]  # fmt: skip
    words = {word for source in sources for word in re.findall(r"[a-z]+|[\u4e00-\u9fff]", source.lower())}
    return ('"', *sorted(words))


def knows() -> str:
    """One paragraph a person can read: what the storybook can draw."""
    return (
        f"objects: {', '.join(OBJECTS)}; colours: {', '.join(COLOURS)}; backgrounds: {', '.join(BACKGROUNDS)}; "
        f"sizes: small, big; places: left, right, top, bottom, middle; two objects: above, below, left of, right of; "
        f'words on a card: with the word "hello" on it ({", ".join(WORDS)})'
    )
