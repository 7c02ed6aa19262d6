"""The pages of the report as Jinja2 templates: one file each, styles inline, nothing fetched from elsewhere."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, StrictUndefined

_STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --ink: #1c2024; --soft: #55606b; --line: #d8dcdf;
  --link: #0a5a9c; --good: #1d6b3a; --good-back: #e8f4ec; --warn: #8a4400; --warn-back: #fdf1e0;
  --fail: #a3161f; --fail-back: #fcebec; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181b; --card: #1d2125; --ink: #e6e8ea; --soft: #a5afb8; --line: #363d44; --link: #7bbcf0;
    --good: #86d6a0; --good-back: #16291d; --warn: #f3b56b; --warn-back: #2e2314;
    --fail: #ff9a9a; --fail-back: #331a1c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 16px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 8px 0 0; }
h2 { font-size: 1.3rem; margin: 44px 0 8px; padding-bottom: 4px; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 24px 0 8px; }
p { max-width: 78ch; margin: 8px 0; }
a { color: var(--link); }
.soft, figcaption small, caption { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 12px 0; }
.verdict { margin: 16px 0; padding: 12px 16px; border-left: 5px solid var(--good); background: var(--good-back);
  border-radius: 4px; }
.verdict.warn { border-color: var(--warn); background: var(--warn-back); }
.verdict.failed { border-color: var(--fail); background: var(--fail-back); }
.verdict p, .verdict ul { margin: 0; max-width: none; }
.verdict ul { margin-top: 6px; padding-left: 20px; }
.verdict li { margin: 3px 0; }
.wide { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 6px; }
th, td { padding: 5px 12px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
.scans table { font-size: 0.8rem; }
.scans th, .scans td { white-space: nowrap; padding: 5px 4px; font-size: 0.8rem; }
.columns td { white-space: nowrap; }
.checks td.number { white-space: nowrap; }
thead th { vertical-align: bottom; font-weight: 600; }
thead small { display: block; font-weight: 400; color: var(--soft); }
.number { text-align: right; }
th[scope=row] { font-weight: 600; }
.scans th[scope=row], .scans thead th:first-child { position: sticky; left: 0; background: var(--page); }
.good { color: var(--good); } .bad { color: var(--warn); font-weight: 600; }
.failure { color: var(--fail); font-weight: 600; }
td[title] { text-decoration: underline dotted var(--soft); text-underline-offset: 3px; cursor: help; }
.columns { display: grid; gap: 8px 32px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr));
  align-items: start; }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 370px), 1fr));
  margin: 12px 0; }
.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
figure img { display: block; width: 100%; height: auto; }
figure.plan { background: #ffffff; max-width: 660px; }
figure.plain { background: none; border: none; max-width: 420px; }
figure.curves { background: none; border: none; max-width: 560px; }
figcaption { padding: 7px 10px 9px; line-height: 1.35; }
figcaption small { display: block; font-size: 0.85rem; }
.key { white-space: nowrap; }
.swatch { display: inline-block; width: 0.75em; height: 0.75em; border: 1px solid var(--line); margin: 0 4px 0 4px; }
details { margin: 8px 0; }
summary { cursor: pointer; font-weight: 600; padding: 6px 0; }
ol.references { font-size: 0.9rem; padding-left: 28px; max-width: 90ch; }
table.record { width: 100%; table-layout: fixed; }
table.record th, table.record td { overflow-wrap: anywhere; }
table.record th { width: 40%; font-weight: 500; }
@media (max-width: 560px) { main { padding: 12px 12px 48px; } h1 { font-size: 1.55rem; } th, td { padding: 5px 6px; }
  .checks table { font-size: 0.82rem; } .checks td.number { white-space: normal; } }
@media print { .wide { overflow: visible; } figure, tr { break-inside: avoid; } }
"""

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="chi33 {{ version }}">
<meta name="description" content="{{ summary }}">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
"""

_SUBJECT = """
{%- macro card(picture) -%}
<figure><img src="{{ picture.uri }}" alt="{{ picture.alt }}"><figcaption>{{ picture.title }}
<small>{{ picture.detail }}{% for name, colour in picture.outlines %}
<span class="key"><span class="swatch" style="background: {{ colour }}"></span>{{ name }}</span>
{% endfor %}</small></figcaption></figure>
{%- endmacro -%}
{%- macro curves(plot) -%}
<figure class="curves"><picture><source srcset="{{ plot.dark }}" media="(prefers-color-scheme: dark)">
<img src="{{ plot.light }}" alt="{{ plot.alt }}"></picture>
<figcaption>{{ plot.title }} <small>{{ plot.detail }}</small></figcaption></figure>
{%- endmacro -%}
<h1>{{ title }}</h1>
<p class="soft">{{ scans|length }} scan{{ "" if scans|length == 1 else "s" }} · chi33 {{ version }} ·
report of {{ date }}</p>
{% if errors %}<h2 id="errors">Errors</h2>
<div class="verdict failed" role="alert"><ul>{% for error in errors %}<li>{{ error }}</li>{% endfor %}</ul></div>
{% endif %}<div class="verdict{{ ' warn' if warnings }}" role="status">
{% if warnings %}<p><strong>{{ warnings|length }} warning{{ "" if warnings|length == 1 else "s" }}.</strong>
Look at {{ "this" if warnings|length == 1 else "these" }} before using the maps:</p>
<ul>{% for warning in warnings %}<li>{{ warning }}</li>{% endfor %}</ul>
{% else %}<p><strong>No warnings.</strong> Every number lies in its expected range; the maps still deserve a look.</p>
{% endif %}</div>
<nav aria-label="Sections">{% if errors %}<a href="#errors">Errors</a> {% endif %}<a href="#scans">Scans</a>
{% if sphere %} <a href="#orientations">Head orientations</a>{% endif %}
{% if fit %} <a href="#fit">Fit</a>{% endif %}
{% if subject_pictures or tensor_pictures %} <a href="#subject">Subject frame</a>{% endif %}
{% if regions %} <a href="#regions">Regions</a>{% endif %}
{% if uncertainty %} <a href="#uncertainty">Uncertainty</a>{% endif %} <a href="#maps">Maps of each scan</a>
<a href="#checks">Checks</a> <a href="#methods">Methods</a> <a href="#provenance">Provenance</a></nav>

<h2 id="scans">Scans</h2>
<div class="wide scans" tabindex="0" role="region" aria-label="Table of scans">
<table><thead><tr><th scope="col">Scan</th>
{% for column in columns %}
<th scope="col" class="number">{{ column.title }}<small>{{ column.unit }}</small></th>{% endfor %}
</tr></thead><tbody>
{% for scan in scans %}<tr><th scope="row">{{ loop.index }} · {{ scan.name }}</th>
{% for text, hover in scan.cells %}<td class="number"{% if hover %} title="{{ hover }}"{% endif %}>{{ text }}</td>
{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<p class="soft">Tilt: angle of B0 to that of the reference scan. Rotation, shift (of the brain's centre) and scale: the
registration to the reference. Std: over the brain for the total field, where the local field is valid for the
others.{% if hertz %} {{ hertz }}{% endif %}{% if chi_square %} {{ chi_square }}{% endif %}</p>
{% if histogram %}{{ curves(histogram) }}{% endif %}

{% if sphere %}<h2 id="orientations">Head orientations</h2>
<div class="columns"><figure class="plain"><picture>
<source srcset="{{ sphere.dark }}" media="(prefers-color-scheme: dark)">
<img src="{{ sphere.light }}" alt="{{ sphere.alt }}"></picture>
<figcaption>B0 directions in the subject frame, on the sphere seen from above
<small>Distance from the centre: angle to the reference's B0, degrees. Numbers: scans as in the
table.</small></figcaption>
</figure>
<div><table><caption>How well these directions determine the fits</caption><tbody>
{% for name, value in orientations.rows %}<tr><th scope="row">{{ name }}</th><td class="number">{{ value }}</td></tr>
{% endfor %}</tbody></table>
{% for message in orientations.messages %}<p class="bad">{{ message }}</p>{% else %}
<p class="good">These directions determine COSMOS and the tensor.</p>{% endfor %}
<p class="soft">Noise gain: standard deviation of the fit without a prior per unit of white noise in every field, root
mean square over k-space, of the tensor over its components too. Smaller is better for every number but the angle and
the rank.</p></div></div>
{% if plan %}<h3>What each scan counts, and one more</h3>
<p>{{ plan.sentences|join(" ") }}</p>
<p class="soft">Scans are numbered as in the table; pitch and roll turn the head from where it was in the reference
scan.</p>
<details><summary>What one more scan would add, over its place</summary>
<figure class="plan"><img src="{{ plan.uri }}" alt="{{ plan.alt }}"></figure></details>{% endif %}
{% endif %}

{% if fit %}<h2 id="fit">Fit</h2>
<div class="columns"><div class="wide"><table><tbody>
{% for name, value in fit %}<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</tbody></table></div>{% if convergence %}
{{ curves(convergence) }}{% endif %}</div>{% endif %}

{% if subject_pictures or tensor_pictures %}<h2 id="subject">Subject frame</h2>
<p>The fits on the reference scan's axes. {{ convention }}</p>
{% if undetermined %}<p class="bad">{{ undetermined }}</p>{% endif %}
{% if subject_pictures %}<div class="cards pairs">{% for picture in subject_pictures %}{{ card(picture) }}
{% endfor %}</div>{% endif %}
{% if tensor_pictures %}<h3>Components of the tensor</h3>
<div class="cards">{% for picture in tensor_pictures %}{{ card(picture) }}
{% endfor %}</div>{% endif %}{% endif %}

{% if regions %}<h2 id="regions">Regions</h2>
<div class="wide" tabindex="0" role="region" aria-label="Table of regions">
<table><caption>Means by region where the local field is valid ({{ regions.source }})</caption>
<thead><tr><th scope="col">Region</th>{% for name, unit in regions.columns %}
<th scope="col" class="number">{{ name }}<small>{{ unit }}</small></th>{% endfor %}
</tr></thead><tbody>
{% for name, cells in regions.rows %}<tr><th scope="row">{{ name }}</th>
{% for cell in cells %}<td class="number">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endif %}

{% if uncertainty %}<h2 id="uncertainty">Uncertainty</h2>
<p>{{ uncertainty.sentence }} Shown for scan {{ uncertainty.reference }}, on its own grid.</p>
<div class="cards">{% for picture in uncertainty.pictures %}{{ card(picture) }}
{% endfor %}</div>
<div class="wide" tabindex="0" role="region" aria-label="Table of standard deviations">
<table><caption>Standard deviations where the local field is valid</caption>
<thead><tr><th scope="col">Scan</th>
{% for column in uncertainty.columns %}
<th scope="col" class="number">{{ column.title }}<small>{{ column.unit }}</small></th>{% endfor %}
</tr></thead><tbody>
{% for name, cells in uncertainty.rows %}<tr><th scope="row">{{ name }}</th>
{% for cell in cells %}<td class="number">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endif %}

<h2 id="maps">Maps of each scan</h2>
<p>Each scan on its own grid, along the closest right–anterior–superior axes and not resampled; the rows lie below, in
and above the middle of the brain. {{ convention }}
Grey scales are the same for all scans; the residual has the scale of the local field.</p>
{% for scan in scans %}<details{{ " open" if loop.first }}><summary>{{ loop.index }} · {{ scan.name }}</summary>
<div class="cards">{% for picture in scan.pictures %}{{ card(picture) }}
{% endfor %}</div></details>
{% endfor %}

<h2 id="checks">Checks</h2>
<div class="wide checks" tabindex="0" role="region" aria-label="Table of checks">
<table><thead><tr><th scope="col">Number</th><th scope="col" class="number">Here</th>
<th scope="col">Expected</th><th scope="col">Verdict</th></tr></thead><tbody>
{% for check in checks %}<tr><th scope="row">{{ check.title }}</th><td class="number">{{ check.value }}</td>
<td>{{ check.expected }}</td>
<td class="{{ 'bad' if check.warnings else 'soft' if check.unclear else 'good' }}">{{ check.verdict }}</td></tr>
{% endfor %}</tbody></table></div>
<p class="soft">Smallest and largest over the scans. Expected: healthy adult brains in vivo at 3 and 7 T.</p>

<h2 id="methods">Methods</h2>
<p>{{ methods.text }}</p>
{% if methods.references %}<ol class="references">{% for reference in methods.references %}<li>{{ reference }}</li>
{% endfor %}</ol>
<p class="soft">For a bibliography: <a href="logs/CITATION.md">CITATION.md</a> and
<a href="logs/CITATION.bib">CITATION.bib</a>.</p>{% endif %}

<h2 id="provenance">Provenance</h2>
{% if stages %}<h3>Time of each stage</h3>
<table><thead><tr><th scope="col">Stage</th><th scope="col" class="number">Seconds</th></tr></thead><tbody>
{% for name, seconds in stages %}<tr><th scope="row">{{ name }}</th><td class="number">{{ seconds }}</td></tr>
{% endfor %}</tbody></table>
<p class="soft">A stage's steps run at the same time, so that its seconds, summed over them, overlap with each other and
with those of other stages.{% if wall %} {{ wall }}{% endif %}</p>
<h3>Tools and parameters</h3>{% endif %}
{% if record %}<table class="record"><tbody>
{% for key, value in record %}<tr><th scope="row">{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}</tbody></table>{% else %}<p>None was given.</p>{% endif %}
</main>
</body>
</html>
"""

_FAILED = """
<h1>{{ title }}</h1>
<p class="soft">chi33 {{ version }} · run of {{ date }} · failed</p>
<h2 id="errors">Errors</h2>
<div class="verdict failed" role="alert"><ul>{% for error in errors %}<li>{{ error }}</li>{% endfor %}</ul></div>
<div class="wide"><table><tbody>
{% for name, value in rows %}<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}</tbody></table></div>
<p>{{ maps }}</p>
<h2 id="provenance">Provenance</h2>
{% if record %}<table class="record"><tbody>
{% for key, value in record %}<tr><th scope="row">{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}</tbody></table>{% else %}<p>None was given.</p>{% endif %}
</main>
</body>
</html>
"""

_INDEX = """
<h1>{{ title }}</h1>
<p class="soft">{{ summary }} · chi33 {{ version }} · <a href="{{ table }}">{{ table }}</a></p>
<div class="wide"><table><thead><tr><th scope="col">Subject</th><th scope="col">Status</th>
<th scope="col">Summary</th></tr></thead><tbody>
{% for entry in entries %}<tr><th scope="row"><a href="{{ entry.href }}">{{ entry.name }}</a></th>
<td class="{{ {'ok': 'good', 'warnings': 'bad', 'failed': 'failure'}.get(entry.summary.status, '') }}">
{{ entry.summary.status }}</td><td>{{ entry.line }}
{% if entry.summary.error %}<br>{{ entry.summary.error }}{% endif %}</td></tr>
{% endfor %}</tbody></table></div>
</main>
</body>
</html>
"""


@cache
def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)


def render_subject(**content: object) -> str:
    """Return the subject's page; a name the template uses and content lacks raises jinja2.UndefinedError."""
    return _environment().from_string(_HEAD + _SUBJECT).render(style=_STYLE, **content)


def render_failed(**content: object) -> str:
    """Return the page of a subject whose run failed."""
    return _environment().from_string(_HEAD + _FAILED).render(style=_STYLE, **content)


def render_index(**content: object) -> str:
    """Return the page that links the subjects."""
    return _environment().from_string(_HEAD + _INDEX).render(style=_STYLE, **content)
