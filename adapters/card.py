"""The card of an adapter: README.md with the Hub's metadata, its training, its results, and how to load it.

Written from the manifest alone, so that the card never says more than is recorded. Does not write files,
and does not judge the metrics.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapthub.adapters.manifest import Certificate, Drift, Manifest, Metric
from adapthub.adapters.multi_label import MULTI_LABEL
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION, SPEECH, Task

_CLASSES: Mapping[Task, str] = {
    "token-classification": "AutoModelForTokenClassification",
    "text-classification": "AutoModelForSequenceClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-generation": "AutoModelForCausalLM",
    "feature-extraction": "AutoModel",
}


_PORTABILITY = "## Portability"


def card(
    manifest: Manifest,
    *,
    name: str,
    language: str | Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    license: str | None = None,
) -> str:
    """The text of README.md for an adapter called `name` ("namespace/name", or a folder's name).

    `language`, `datasets` and `license` are the Hub's own metadata fields (ISO codes, dataset ids, a
    licence id).
    """
    sections = [
        _metadata(manifest, name, language, datasets, license),
        f"# {_cell(name)}",
        _summary(manifest),
        _facts(manifest),
        _results(manifest),
        portability(manifest),
        _with_adapthub(manifest, name),
        _with_peft(manifest),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _metadata(
    manifest: Manifest,
    name: str,
    language: str | Sequence[str] | None,
    datasets: Sequence[str] | None,
    license: str | None,
) -> str:
    from huggingface_hub import ModelCardData

    base = manifest.base.id if _is_hub_id(manifest.base.id) else None
    fields: dict[str, Any] = {"base_model": base, "base_model_relation": "adapter" if base else None}
    data = ModelCardData(
        **fields,
        library_name="peft",
        pipeline_tag=manifest.task,
        language=language if language is None or isinstance(language, str) else list(language),
        datasets=None if datasets is None else list(datasets),
        license=license,
        tags=["adapthub", manifest.method, *([f"base_model:adapter:{base}"] if base else [])],
        metrics=sorted({metric for values in manifest.metrics.values() for metric in values}) or None,
        model_name=name,
        eval_results=_eval_results(manifest) or None,
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def _is_hub_id(reference: str) -> bool:
    """Whether the Hub's metadata may name it: it refuses folders and our own names of packaged models."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(reference)
    except HFValidationError:
        return False
    return not Path(reference).exists()


def _eval_results(manifest: Manifest) -> list[Any]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=manifest.task or "other",
            dataset_type=_source(manifest, split),
            dataset_name=_source(manifest, split),
            dataset_split=split,
            metric_type=metric,
            metric_name=f"{metric} ({_interval(value)}n = {value.n})",
            metric_value=value.value,
        )
        for split, values in sorted(manifest.metrics.items())
        for metric, value in sorted(values.items())
    ]


def _source(manifest: Manifest, split: str) -> str:
    record = manifest.data.get(split)
    return record.source if record is not None and record.source else "unpublished"


def _interval(value: Metric) -> str:
    return "" if value.low is None or value.high is None else f"95 % {value.low:.4f} to {value.high:.4f}, "


def _summary(manifest: Manifest) -> str:
    task = f" for {manifest.task}" if manifest.task else ""
    trained = f", trained over it in {manifest.quantization}" if manifest.quantization else ""
    lines = [f"A {manifest.method} adapter{task} on the base model {_code(manifest.base.id)}{trained}."]
    if manifest.labels:
        lines.append(f"Labels: {', '.join(_code(label) for label in manifest.labels)}.")
    return "\n".join(lines)


def _facts(manifest: Manifest) -> str:
    rows = [
        ("recipe", manifest.recipe),
        ("base revision", manifest.base.revision),
        ("base fingerprint", manifest.base.fingerprint.digest),
        ("seed", manifest.seed),
        *(
            (f"{split} data", f"{_source(manifest, split)}, {data.rows} rows{data.in_groups}")
            for split, data in manifest.data.items()
        ),
        *sorted(manifest.hyperparameters.items()),
        *sorted(manifest.libraries.items()),
    ]
    return "## Training\n\n" + _table(("", ""), [(key, value) for key, value in rows if value is not None])


def _results(manifest: Manifest) -> str:
    rows = [
        (split, metric, f"{value.value:.4f}", _bounds(value), value.n)
        for split, values in sorted(manifest.metrics.items())
        for metric, value in sorted(values.items())
    ]
    return "## Results\n\n" + _table(("split", "metric", "value", "95 % interval", "n"), rows) if rows else ""


def portability(manifest: Manifest) -> str:
    """The section on what the adapter is over other forms of its base; empty without certificates."""
    alike = manifest.certified_on
    rows = [
        (
            form,
            certificate.verdict,
            metric,
            f"{drift.value:.4f}",
            _drift(drift),
            *_drifts(certificate),
            *(() if alike else (certificate.data.words,)),
        )
        for form, certificate in manifest.certificates.items()
        for metric, drift in certificate.metrics.items()
    ]
    if not rows:
        return ""
    first = next(iter(manifest.certificates.values()))
    header = (
        "base",
        "verdict",
        "metric",
        "value",
        "change, 95 % interval",
        "largest drift",
        "other decisions",
        *(() if alike else ("measured on",)),
    )
    rest = f"against the base in {first.reference}{f', on {alike.words}' if alike else ''}"
    return f"{_PORTABILITY}\n\nMeasured {rest}.\n\n{_table(header, rows)}"


def with_portability(text: str, manifest: Manifest) -> str:
    """The card `text` with this section in its place, or in the place of the one that it has; all else as it is."""
    section = portability(manifest)
    own = re.compile(rf"^{re.escape(_PORTABILITY)}$.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    text = own.sub("", text)
    before, heading, after = text.partition("\n## With AdaptHub\n")
    return f"{before.rstrip()}\n\n{section}\n{heading}{after}".rstrip() + "\n"


def _drift(drift: Drift) -> str:
    return f"{drift.difference:+.4f} ({drift.low:+.4f} to {drift.high:+.4f})"


def _drifts(certificate: Certificate) -> tuple[str, str]:
    changed = "" if certificate.changed is None else f"{certificate.changed:.2%}"
    return f"{certificate.max_drift:.2e}", changed


def _bounds(value: Metric) -> str:
    return "" if value.low is None or value.high is None else f"{value.low:.4f} to {value.high:.4f}"


def _with_adapthub(manifest: Manifest, name: str) -> str:
    quantize = f", quantize={manifest.quantization!r}" if manifest.quantization else ""
    call = "predict" if manifest.task != "text-generation" else "generate"
    before, imported, asked = "", "Runtime", '"Some text."'
    if manifest.task == "question-answering":
        imported, asked = "Pair, Runtime", 'Pair("What is asked?", "Some text.")'
    if manifest.task == SPEECH:
        call, asked = "transcribe", '"some.wav"'
    if manifest.task == IMAGE_CLASSIFICATION:
        before, asked = "from pathlib import Path\n\n", 'Path("some.png")'
    return f"""## With AdaptHub

```python
{before}from adapthub.runtime import {imported}

runtime = Runtime({manifest.base.id!r}{quantize})
adapter = {name!r}  # a name in the hub, or this folder
runtime.attach(adapter)
print(runtime.{call}([{asked}], adapters=[adapter]))
```"""


def _with_peft(manifest: Manifest) -> str:
    if manifest.task is None:
        return ""
    if manifest.task == SPEECH:
        return _speech_with_peft(manifest)
    if manifest.task == IMAGE_CLASSIFICATION:
        return _pictures_with_peft(manifest)
    model_class = _CLASSES[manifest.task]
    if manifest.task == "text-generation" and "decoder_start" in manifest.hyperparameters:
        model_class = "AutoModelForSeq2SeqLM"
    setup = f"base = {manifest.base.id!r}  # the base model's Hub id or folder"
    arguments = "base"
    if manifest.base.revision:
        arguments += f", revision={manifest.base.revision!r}"
    if manifest.labels:
        setup += f"\nlabels = {list(manifest.labels)!r}"
        arguments += ", num_labels=len(labels), id2label=dict(enumerate(labels))"
    return f"""## With PEFT alone

```python
from peft import PeftModel
from transformers import {model_class}, AutoTokenizer

{setup}
tokenizer = AutoTokenizer.from_pretrained(base)
model = {model_class}.from_pretrained({arguments})
model = PeftModel.from_pretrained(model, ".").eval()  # this folder
{_use(manifest)}
```"""


def _speech_with_peft(manifest: Manifest) -> str:
    language = manifest.hyperparameters.get("language")
    asked = f", language={language!r}" if language else ""
    revision = f", revision={manifest.base.revision!r}" if manifest.base.revision else ""
    return f"""## With PEFT alone

```python
import soundfile
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor

base = {manifest.base.id!r}  # the base model's Hub id or folder
generates = AutoConfig.from_pretrained(base).is_encoder_decoder
model_class = AutoModelForSpeechSeq2Seq if generates else AutoModelForCTC
processor = AutoProcessor.from_pretrained(base)
model = PeftModel.from_pretrained(model_class.from_pretrained(base{revision}), ".").eval()  # this folder
sound, rate = soundfile.read("some.wav", dtype="float32")  # one channel, at the base's rate
inputs = processor(sound, sampling_rate=rate, return_tensors="pt")
output = model.generate(**inputs{asked}) if generates else model(**inputs).logits.argmax(-1)
print(processor.batch_decode(output, skip_special_tokens=generates))
```"""


def _pictures_with_peft(manifest: Manifest) -> str:
    revision = f", revision={manifest.base.revision!r}" if manifest.base.revision else ""
    return f"""## With PEFT alone

```python
from peft import PeftModel
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

base = {manifest.base.id!r}  # the base model's Hub id or folder
labels = {list(manifest.labels or ())!r}
processor = AutoImageProcessor.from_pretrained(base, backend="pil")
model = AutoModelForImageClassification.from_pretrained(
    base{revision}, id2label=dict(enumerate(labels)), ignore_mismatched_sizes=True
)
model = PeftModel.from_pretrained(model, ".").eval()  # this folder
inputs = processor(Image.open("some.png").convert("RGB"), return_tensors="pt")
logits = model(**inputs).logits
print(labels[int(logits.argmax())])
```"""


def _use(manifest: Manifest) -> str:
    if manifest.task == "text-generation":
        return """inputs = tokenizer("Some text", return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0], skip_special_tokens=True))"""
    if manifest.task == "question-answering":
        return """inputs = tokenizer("What is asked?", "Some text.", return_tensors="pt")
output = model(**inputs)
first, last = int(output.start_logits.argmax()), int(output.end_logits.argmax())
print(tokenizer.decode(inputs.input_ids[0, first : last + 1]))"""
    if manifest.task == "feature-extraction":
        return """inputs = tokenizer("Some text.", return_tensors="pt")
print(model(**inputs).last_hidden_state.mean(1))"""
    if manifest.hyperparameters.get("problem_type") == MULTI_LABEL:
        return """inputs = tokenizer("Some text.", return_tensors="pt")
scores = model(**inputs).logits.sigmoid()[0].tolist()
print(dict(zip(labels, scores)))"""
    answer = (
        "[labels[index] for index in logits.argmax(-1).flatten().tolist()]" if manifest.labels else "logits"
    )
    return f"""inputs = tokenizer("Some text.", return_tensors="pt")
logits = model(**inputs).logits
print({answer})"""


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    """One line of text that cannot end its cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _code(text: str) -> str:
    """Inline code that its content cannot end: fenced by more backticks than it has in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    padding = " " if "`" in text else ""
    return f"{fence}{padding}{' '.join(text.split())}{padding}{fence}"
