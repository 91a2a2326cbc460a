"""Style rules that let rows stand out in plots when they are ticked or pointed at in the legend; no script is needed."""


def row_css(rows: int) -> str:
    """Rules for a page with so many rows; they work on the plots that follow a legend in its section.

    The boxes have the classes `pick` and `pick-<i>`, the legend's entries `key-<i>`, the groups of a plot `row-<i>`, `band-<i>`.
    """
    if rows < 2:
        return ""
    chosen = ".legend:has(.pick:checked, li:hover, .pick:focus-visible) ~ *"
    rules = [f"{chosen} .row {{ opacity: .13; }}", f"{chosen} .band {{ opacity: 0; }}"]
    for i in range(rows):
        one = f".legend:has(.pick-{i}:checked, .key-{i}:hover, .pick-{i}:focus-visible) ~ *"
        rules.append(f"{one} :is(.row-{i}, .band-{i}) {{ opacity: 1; }}")
    return "\n".join(rules)
