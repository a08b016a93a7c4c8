"""The parts of a response as a page colours them, whether or not it is well formed."""

from rewards.response import TAG

Segment = tuple[str, str]  # kind and text; kinds: tag, text, and the names of the tags


def segments(response: str) -> list[Segment]:
    """All of a response, in order, cut at its tags.

    Text between a tag and its own closing tag has the tag's name as its kind; any other is `text`.

    Example:
        >>> segments("<think>It <b>grows</b>.</think> so <answer>A")[1:]
        [('think', 'It <b>grows</b>.'), ('tag', '</think>'), ('text', ' so '), ('tag', '<answer>'), ('text', 'A')]
    """
    found: list[Segment] = []
    tags = list(TAG.finditer(response))
    ends = [match.start() for match in tags[1:]] + [len(response)]
    if head := response[: tags[0].start() if tags else len(response)]:
        found.append(("text", head))
    for index, (match, end) in enumerate(zip(tags, ends)):
        found.append(("tag", match[0]))
        closed = index + 1 < len(tags) and not match[1] and tags[index + 1].groups() == ("/", match[2])
        if text := response[match.end() : end]:
            found.append((match[2] if closed else "text", text))
    return found


def texts(response: str) -> dict[str, str]:
    """The first text between each tag and its closing tag, stripped.

    Example:
        >>> texts("<answer> A </answer>")
        {'answer': 'A'}
    """
    found: dict[str, str] = {}
    for kind, text in segments(response):
        if kind not in ("tag", "text"):
            found.setdefault(kind, text.strip())
    return found
