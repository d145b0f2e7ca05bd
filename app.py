"""The page: photographs in, attributes with their probabilities out.

streamlit run app.py
streamlit run app.py -- --save-dir saved --device cuda

Its numbers are those of test.py: the same models, decoder, preprocessing and vote, a photograph at a time.
"""

from __future__ import annotations

import re
import sys
import threading
from argparse import Namespace
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

try:
    import altair
    import streamlit as st
except ModuleNotFoundError:
    print('app.py needs the package "streamlit": pip install streamlit', file=sys.stderr)
    sys.exit(2)

from data_loader.records.tables import as_cell
from experiment.report import REPORT_FILE
from experiment.runs import RunSummary, summarise_runs, usual
from inference.ensemble import Ensemble, EnsemblePrediction
from inference.explanation import explain_prediction
from inference.export.exported import ExportedPredictor
from inference.inputs import EnsembleMember, load_models
from inference.run import ensemble_of
from inference.scoring.scores import TestScores, read_scores
from logger.json_lines_tracker import read_metrics
from scripts.demo_data.faces import draw_photograph, mask_state_of
from scripts.demo_data.people import imagine_person
from utils.command_line import CommandLine
from utils.config.plugins import FLAG, accept_changes
from utils.errors import DataError, UserError
from utils.images.decoding import SMALL_SIDE, THIN_RATIO, decode_rgb
from utils.run_folders import RunFolders, folds_in
from utils.wording import format_value

LANGUAGES = {"en": "English", "ko": "한국어"}
TEXTS = {
    "title": {"en": "Attributes of a photograph", "ko": "사진 속성 분류"},
    "language": {"en": "Language", "ko": "언어"},
    "predict": {"en": "Predict", "ko": "예측"},
    "runs": {"en": "Runs", "ko": "학습 기록"},
    "model": {"en": "Model", "ko": "모델"},
    "another_model": {"en": "Another model", "ko": "다른 모델"},
    "path": {
        "en": "The path of a run folder, a checkpoint or an exported folder on this computer",
        "ko": "이 컴퓨터에 있는 학습 폴더, 체크포인트 또는 내보낸 폴더의 경로",
    },
    "loading": {"en": "The model is being loaded …", "ko": "모델을 불러오는 중 …"},
    "no_runs": {
        "en": "There is no trained model in {folder} yet. Train one (python train.py --config config.json), or enter "
        "the path of a run folder or a checkpoint.",
        "ko": "{folder}에 학습된 모델이 아직 없습니다. 먼저 학습하거나(python train.py --config config.json), "
        "학습 폴더나 체크포인트의 경로를 입력해 주세요.",
    },
    "no_runs_yet": {"en": "There is no run in {folder} yet.", "ko": "{folder}에 학습 기록이 아직 없습니다."},
    "cannot_load": {"en": "This model cannot be used: {reason}", "ko": "이 모델은 사용할 수 없습니다: {reason}"},
    "upload": {"en": "Upload", "ko": "사진 올리기"},
    "camera": {"en": "Camera", "ko": "카메라"},
    "sample": {"en": "Drawn sample", "ko": "그린 예시"},
    "source": {"en": "Where the photograph comes from", "ko": "사진을 가져올 곳"},
    "files": {"en": "Photographs (JPEG, PNG, WEBP or BMP)", "ko": "사진 (JPEG, PNG, WEBP, BMP)"},
    "another": {"en": "Draw another", "ko": "다시 그리기"},
    "drawn": {"en": "Drawn as: {truth}", "ko": "그린 내용: {truth}"},
    "cannot_read": {
        "en": "Sorry, {name} cannot be used as a photograph: it {reason}.",
        "ko": "죄송합니다. {name} 파일은 사진으로 쓸 수 없습니다. 다른 사진을 올려 주세요. ({reason})",
    },
    "too_large": {"en": "is larger than the memory of this computer allows", "ko": "이 컴퓨터의 메모리보다 큽니다"},
    "doubtful": {
        "en": "It has only {width} × {height} pixels: do not rely on the result.",
        "ko": "{width} × {height} 화소뿐이므로 결과를 믿기 어렵습니다.",
    },
    "joint": {"en": "class {number}, one of {count}", "ko": "{count}개 중 {number}번 클래스"},
    "others": {"en": "and {count} less likely ones", "ko": "그 밖에 가능성이 낮은 {count}개"},
    "look": {"en": "Show what the model looked at", "ko": "모델이 본 부분 보기"},
    "about": {"en": "Attribute", "ko": "속성"},
    "explaining": {"en": "Looking …", "ko": "살펴보는 중 …"},
    "prepared_once": {"en": "Prepared", "ko": "준비된 사진"},
    "prepared": {"en": "As the model sees it", "ko": "모델에 들어간 사진"},
    "heat": {
        "en": "{method}: the warmer, the more it speaks for {answer}",
        "ko": "{method}: 붉을수록 {answer}의 근거가 되는 부분",
    },
    "first_of": {"en": "of the first of {count} models", "ko": "모델 {count}개 중 첫째"},
    "download": {"en": "Download as CSV", "ko": "CSV 내려받기"},
    "one_of_them": {"en": "In detail", "ko": "자세히 볼 사진"},
    "image": {"en": "photograph", "ko": "사진"},
    "class": {"en": "class", "ko": "클래스"},
    "run": {"en": "run", "ko": "이름"},
    "epochs": {"en": "{number} epochs", "ko": "{number}에폭"},
    "minutes": {"en": "{number} minutes", "ko": "{number}분"},
    "epoch": {"en": "epoch", "ko": "에폭"},
    "comparable": {"en": "not comparable", "ko": "비교 불가"},
    "other_validation": {"en": "validated on other images than most", "ko": "대부분과 다른 이미지로 검증"},
    "other_test": {"en": "tested on other images than most", "ko": "대부분과 다른 이미지로 테스트"},
    "scores": {"en": "Scores of test.py", "ko": "test.py의 점수"},
    "call": {"en": "Call of test.py", "ko": "test.py 실행"},
    "measured": {"en": "{number} images · {models}", "ko": "이미지 {number}개 · {models}"},
    "joint_class": {"en": "joint class", "ko": "결합 클래스"},
    "interval": {"en": "95 % interval", "ko": "95 % 구간"},
    "accuracy": {"en": "accuracy", "ko": "정확도"},
    "curves": {"en": "Curves", "ko": "학습 곡선"},
    "report": {"en": "Report", "ko": "보고서"},
    "changes": {"en": "What differs from the config that it extends", "ko": "바탕이 된 설정과 다른 점"},
    "no_changes": {"en": "Nothing that is known.", "ko": "알려진 것이 없습니다."},
}  # fmt: skip

SOURCES = ("upload", "camera", "sample")
FACE_ATTRIBUTES = {"mask", "gender", "age"}  # what a drawn sample has
MOST_BARS = 12  # an attribute with more classes shows the likeliest
PREVIEW_SIDE = 800  # in pixels, the longer side of what the browser gets to see of a photograph

SCORES = {"val/f1": "val F1", "test/f1": "test F1"}
BEST_METRICS = ("val/loss", "val/accuracy", "val/f1")


@dataclass(frozen=True)
class Model:
    """What predicts, as test.py would have it: one model, or the folds of a run together.

    key: changes where the checkpoints do
    lock: of a session that uses it
    """

    key: str
    members: list[EnsembleMember]
    ensemble: Ensemble
    lock: threading.Lock


def main() -> None:
    """The page from top to bottom; streamlit runs it at each click."""
    st.set_page_config(page_title=text("title"), page_icon="🖼️", layout="centered")
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.title(text("title"), anchor=False, width="content")
        st.segmented_control(
            text("language"), list(LANGUAGES), default=language(), required=True, format_func=LANGUAGES.__getitem__,
            key="language", label_visibility="collapsed",
        )  # fmt: skip
    try:
        given = command_line()
    except UserError as error:
        st.error(plain(error))
        return
    runs = find_runs(str(given.save_dir.absolute()))
    predict_tab, runs_tab = st.tabs([text("predict"), text("runs")])
    with runs_tab:
        show_runs(runs, given.save_dir)
    with predict_tab:
        model = choose_model(runs, given)
        if model is not None:
            show_photographs(model, choose_photographs(model))


def language() -> str:
    """The chosen language, or else the browser's."""
    own = "ko" if (st.context.locale or "").startswith("ko") else "en"
    return str(st.session_state.get("language") or own)


def text(key: str, **values: object) -> str:
    """A text of the page in the chosen language, its values as they are."""
    return TEXTS[key][language()].format(**{name: plain(value) for name, value in values.items()})


def plain(value: object) -> str:
    """Markdown that shows a value as it is, whatever signs a file or a class has in its name."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", str(value))


def command_line() -> Namespace:
    """Raises ConfigError."""
    parser = CommandLine(prog="app.py", add_help=False)
    parser.add_argument("--save-dir", type=Path, default=Path("saved"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument(FLAG, action="store_true")
    given = parser.parse(sys.argv[1:])
    accept_changes(given.accept_changed_plugins)
    return given


# --- the model ---


@st.cache_data(ttl=10, show_spinner=False)
def find_runs(save_dir: str) -> list[RunSummary]:
    """The best first; of equal ones, and of those without a score, the newest first."""
    runs = reversed(summarise_runs(Path(save_dir)))
    return sorted(runs, key=lambda run: run.metrics.get("val/f1", -1.0), reverse=True)


def checkpoints(path: Path) -> list[Path]:
    """Of a run folder, those of its folds among them; or the file itself."""
    return [path] if path.is_file() else [*path.glob("*.pth"), *path.glob("fold_*/*.pth")]


def choose_model(runs: list[RunSummary], given: Namespace) -> Model | None:
    """None, with a sentence on the page, where there is none to use."""
    folders = {str(run.folder): run for run in runs if checkpoints(run.folder)}
    chosen = None
    if folders:
        names = {folder: describe_run(run) for folder, run in folders.items()}
        chosen = st.selectbox(text("model"), list(names), format_func=names.__getitem__, key="model")
        place = st.expander(text("another_model"))
    else:
        st.info(text("no_runs", folder=given.save_dir))
        place = st.container()
    entered = place.text_input(text("path"), key="path").strip()
    if not (named := entered or chosen):
        return None
    path = Path(named).expanduser().absolute()
    try:
        changed = max((file.stat().st_mtime_ns for file in checkpoints(path)), default=0)
        with st.spinner(text("loading")):
            return load_model(str(path), changed, given.device)
    except (UserError, OSError, MemoryError) as error:
        st.error(text("cannot_load", reason=error))
        return None


def describe_run(run: RunSummary) -> str:
    score = run.metrics.get("val/f1")
    return run.title if score is None else f"{run.title} (F1 {score:.3f})"


@st.cache_resource(max_entries=4, show_spinner=False)
def load_model(path: str, changed: int, device: str) -> Model:
    """changed: when its newest checkpoint was written. Raises UserError, OSError."""
    members = load_models(Namespace(resume=[path], checkpoint="best", weights=None, tta=None, device=device))
    return Model(f"{path} {changed}", members, ensemble_of(members), threading.Lock())


# --- the photographs ---


def choose_photographs(model: Model) -> dict[str, bytes]:
    """By name, the files that were uploaded, taken or drawn."""
    faces = FACE_ATTRIBUTES & model.ensemble.labels.predicted_attributes.keys()
    names = {source: text(source) for source in (SOURCES if faces else SOURCES[:2])}
    source = st.segmented_control(
        text("source"), list(names), default="upload", required=True, format_func=names.__getitem__,
        key="source", label_visibility="collapsed",
    )  # fmt: skip
    if source == "camera":
        picture = st.camera_input(text("camera"), label_visibility="collapsed")
        return {"camera.jpg": picture.getvalue()} if picture else {}
    if source == "sample":
        with st.container(horizontal=True, vertical_alignment="center"):
            if st.button(text("another"), icon=":material/refresh:"):
                st.session_state.sample = st.session_state.get("sample", 0) + 1
            data, truth = draw_sample(st.session_state.get("sample", 0))
            st.caption(text("drawn", truth=truth), width="content")
        return {f"sample {st.session_state.get('sample', 0) + 1}.png": data}
    named: dict[str, bytes] = {}
    for file in st.file_uploader(text("files"), accept_multiple_files=True, key="upload"):
        name, number = file.name, 1
        while name in named:
            number += 1
            name = f"{file.name} ({number})"
        named[name] = file.getvalue()
    return named


@st.cache_data(max_entries=64, show_spinner=False)
def draw_sample(number: int) -> tuple[bytes, str]:
    """A PNG of an imagined person, and what was imagined."""
    person = imagine_person(1, "page", number)
    stem = ("mask1", "incorrect_mask", "normal")[number % 3]
    file = BytesIO()
    Image.fromarray(draw_photograph(person, stem)).save(file, "PNG")
    return file.getvalue(), f"{mask_state_of(stem)}, {person.gender}, {person.age}"


@dataclass(frozen=True)
class Photograph:
    """An upload, and what is predicted of it.

    predicted: N = 1
    size_hw: of the photograph
    preview: a small picture of it, (h, w, 3) uint8
    prepared: the same of the photograph as the model's preparation makes it; None: it has none
    fallbacks: what the preparation did not find, and did instead
    """

    name: str
    data: bytes
    predicted: EnsemblePrediction
    size_hw: tuple[int, int]
    preview: np.ndarray
    prepared: np.ndarray | None
    fallbacks: list[str]


def show_photographs(model: Model, files: dict[str, bytes]) -> None:
    """One in detail; several as a table, and one of them in detail. Those that cannot be read get a sentence."""
    photographs = {}
    for name, data in files.items():
        try:
            photographs[name] = Photograph(name, data, *predict(model, model.key, data))
        except DataError as error:
            st.warning(text("cannot_read", name=name, reason=str(error).partition(": ")[2]))
        except MemoryError:
            st.warning(text("cannot_read", name=name, reason=text("too_large")))
        except UserError as error:
            st.error(text("cannot_load", reason=error))
            return
    if len(photographs) > 1:
        show_table(model, list(photographs.values()))
        chosen = st.selectbox(text("one_of_them"), list(photographs), key="detail")
        show_photograph(model, photographs[chosen])
    elif photographs:
        show_photograph(model, *photographs.values())


@st.cache_data(max_entries=256, show_spinner=False)
def predict(
    _model: Model,
    key: str,  # noqa: ARG001
    data: bytes,
) -> tuple[EnsemblePrediction, tuple[int, int], np.ndarray, np.ndarray | None, list[str]]:
    """The fields of a Photograph. Raises DataError; ConfigError where a network of the preparation cannot be used."""
    prepared: np.ndarray | None = None
    fallbacks: list[str] = []
    with _model.lock:
        by_member = []
        for member in _model.members:
            predictor = member.predictor
            image = decode_rgb(data, "photograph", predictor.preprocessing.bits_used_of_16)
            by_member.append(predictor.predict_pixels(image))
            if prepared is None and predictor.preparation is not None:
                whole, fallbacks = predictor.preparation.prepare_upload(image)
                prepared = small_picture(whole)
        return _model.ensemble.predict(by_member), image.shape[:2], small_picture(image), prepared, fallbacks


def small_picture(image: np.ndarray) -> np.ndarray:
    """At most PREVIEW_SIDE pixels to a side; one that is thinner than 1 : 2 gets white borders."""
    scale = min(1.0, PREVIEW_SIDE / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    borders = [max(0, -(-other // 2) - side) for side, other in ((height, width), (width, height))]
    pads = [(border // 2, border - border // 2) for border in borders]
    return np.pad(small, [*pads, (0, 0)], constant_values=255)


def show_photograph(model: Model, photograph: Photograph) -> None:
    """The picture, the joint class, each attribute's probabilities as bars, and what the model looked at."""
    labels, predicted = model.ensemble.labels, photograph.predicted
    if predicted.joint is not None:
        number = int(predicted.joint[0])
        st.header(plain(labels.joint_class_names[number]), anchor=False)
        st.caption(text("joint", number=number, count=labels.num_joint_classes))
    if photograph.prepared is None:
        left, right = st.columns([2, 3], gap="medium")
    else:
        left, middle, right = st.columns([2, 2, 3], gap="small")
        middle.image(photograph.prepared, caption=text("prepared_once"), width="stretch")
        for each in photograph.fallbacks:
            middle.caption(f":orange[{plain(each)}]")
    left.image(photograph.preview, caption=plain(photograph.name), width="stretch")
    height, width = photograph.size_hw
    if min(height, width) < SMALL_SIDE or max(height, width) > THIN_RATIO * min(height, width):
        left.caption(f":orange[{text('doubtful', width=width, height=height)}]")
    with right:
        for name in labels.predicted_attributes:
            show_bars(labels.attributes[name].class_names, predicted, name)
    # An exported graph gives no gradients, and no feature maps.
    is_exported = any(isinstance(member.predictor, ExportedPredictor) for member in model.members)
    if not is_exported and st.toggle(text("look"), key="look"):
        show_explanation(model, photograph)


def show_bars(class_names: tuple[str, ...], predicted: EnsemblePrediction, attribute: str) -> None:
    probabilities = predicted.probabilities[attribute][0].tolist()
    best = int(predicted.classes[attribute][0])
    st.markdown(f"**{plain(attribute)}**: {plain(class_names[best])}")
    likeliest = sorted(range(len(class_names)), key=probabilities.__getitem__, reverse=True)[:MOST_BARS]
    with st.container(gap="small"):
        for number in sorted(likeliest):
            probability = probabilities[number]
            st.progress(min(1.0, probability), f"{plain(class_names[number])} · {probability:.1%}")
    if len(class_names) > MOST_BARS:
        st.caption(text("others", count=len(class_names) - MOST_BARS))


def show_explanation(model: Model, photograph: Photograph) -> None:
    attributes = model.ensemble.labels.predicted_attributes
    attribute = st.segmented_control(
        text("about"), list(attributes), default=next(iter(attributes)), required=True, format_func=plain,
        key=f"about {' '.join(attributes)}", label_visibility="collapsed",
    )  # fmt: skip
    best = int(photograph.predicted.classes[attribute][0])
    with st.spinner(text("explaining")):
        prepared, drawn, method = explain(model, model.key, photograph.data, attribute, best)
    answer = f"{attribute} = {attributes[attribute].class_names[best]}"
    caption = text("heat", method=method, answer=answer)
    if len(model.members) > 1:
        caption = f"{caption} ({text('first_of', count=len(model.members))})"
    left, right = st.columns(2)
    left.image(drawn, caption=caption, width="stretch")
    right.image(prepared, caption=text("prepared"), width="stretch")


@st.cache_data(max_entries=64, show_spinner=False)
def explain(
    _model: Model,
    key: str,  # noqa: ARG001
    data: bytes,
    attribute: str,
    class_number: int,
) -> tuple[np.ndarray, np.ndarray, str]:
    """The picture as the first model of the attribute sees it, the same under its heat, and the method."""
    predictor = next(
        member.predictor for member in _model.members if attribute in member.predictor.labels.predicted_attributes
    )
    image = decode_rgb(data, "photograph", predictor.preprocessing.bits_used_of_16)
    with _model.lock:
        explanation = explain_prediction(predictor, image, attribute, class_number)
    return explanation.prepared, explanation.drawn(), explanation.method


def show_table(model: Model, photographs: list[Photograph]) -> None:
    """A row a photograph, with its classes; the CSV has the probability of each class, too."""
    labels = model.ensemble.labels
    rows: list[dict[str, Any]] = []
    for photograph in photographs:
        predicted = photograph.predicted
        row: dict[str, Any] = {text("image"): photograph.name}
        if predicted.joint is not None:
            row[text("class")] = int(predicted.joint[0])
        for name, attribute in labels.predicted_attributes.items():
            row[name] = attribute.class_names[int(predicted.classes[name][0])]
        for name, attribute in labels.predicted_attributes.items():
            for class_name, probability in zip(attribute.class_names, predicted.probabilities[name][0], strict=True):
                row[f"{name} {class_name}"] = float(probability)
        rows.append(row)
    table = pd.DataFrame(rows)
    classes = [name for name in table if table[name].dtype != float]
    st.dataframe(table, hide_index=True, width="stretch", column_order=classes)
    escaped = table.map(lambda cell: as_cell(cell) if isinstance(cell, str) else cell).rename(columns=as_cell)
    csv = escaped.to_csv(index=False, float_format="%.6f").encode("utf-8-sig")  # by which Excel knows Korean
    st.download_button(text("download"), csv, "predictions.csv", "text/csv", icon=":material/download:")


# --- the runs ---


def show_runs(runs: list[RunSummary], save_dir: Path) -> None:
    """The runs, the best first, and one of them in detail."""
    if not runs:
        st.info(text("no_runs_yet", folder=save_dir))
        return
    validated = usual(run.validation_digest for run in runs)
    tested = usual(run.test.images_digest for run in runs if run.test)
    rows = [
        {text("run"): run.title}
        | {title: run.metrics.get(name) for name, title in SCORES.items()}
        | {text("comparable"): " ".join(reasons_not_to_compare(run, validated, tested))}
        for run in runs
    ]
    table = pd.DataFrame(rows)
    unused = [name for name in table if not table[name].notna().any() or not table[name].astype(bool).any()]
    four = st.column_config.NumberColumn(format="%.4f", width="small")
    st.dataframe(table.drop(columns=unused), hide_index=True, column_config=dict.fromkeys(SCORES.values(), four))
    titles = {run.title: run for run in runs}
    run = titles[st.selectbox(text("run"), list(titles), key="run")]
    show_run(run, RunFolders.in_save_dir(save_dir, run.folder.parent.name, run.folder.name).log)


def reasons_not_to_compare(run: RunSummary, validated: str | None, tested: str | None) -> list[str]:
    """validated, tested: the digests of the images that most runs were validated and tested on"""
    reasons = []
    if run.validation_digest not in (validated, None):
        reasons.append(text("other_validation"))
    if run.test and run.test.images_digest != tested:
        reasons.append(text("other_test"))
    return reasons


def show_run(run: RunSummary, log: Path) -> None:
    """How long it took, its scores, its curves, and what is special about it.

    log: the folder of its metrics.jsonl"""
    facts = [text("epochs", number=run.epochs)]
    if run.seconds is not None:
        facts.append(text("minutes", number=f"{run.seconds / 60:.1f}"))
    best = [f"{name} {value:.4f}" for name, value in run.metrics.items() if name in BEST_METRICS]
    st.caption(" · ".join([*facts, *map(plain, best)]))
    if scores := read_scores(run.folder):
        st.subheader(text("scores"), anchor=False)
        show_scores(scores)
    if charts := curves_of(log):
        st.subheader(text("curves"), anchor=False)
        for column, chart in zip(st.columns(len(charts)), charts, strict=True):
            column.altair_chart(draw_chart(chart))
    st.subheader(text("changes"), anchor=False)
    if run.changes:
        lines = [f"{key} = {format_value(value)}" for key, value in run.changes.items()]
        st.code("\n".join(lines), language=None, wrap_lines=True, height=min(300, 40 + 24 * len(lines)))
    else:
        st.caption(text("no_changes"))
    report = run.folder / REPORT_FILE
    if report.is_file():
        st.download_button(
            text("report"), report.read_bytes, f"{run.folder.name}.html", "text/html", icon=":material/description:"
        )
    st.caption(plain(run.folder))


def curves_of(log: Path) -> list[pd.DataFrame]:
    """By epoch, the losses and the scores; of a run of folds the validation's, a curve a fold. None of one epoch."""
    folds = {folder.name: read_metrics(folder) for folder in folds_in(log).values()} if log.is_dir() else {}
    if folds:
        tables = {fold: pd.DataFrame(rows).set_index("epoch") for fold, rows in folds.items() if rows}
        charts = [
            pd.DataFrame({fold: table[name] for fold, table in tables.items() if name in table})
            for name in ("val/loss", "val/f1")
        ]
    elif rows := read_metrics(log):
        table = pd.DataFrame(rows).set_index("epoch")
        wanted = (("train/loss", "val/loss"), ("val/f1", "val/accuracy"))
        charts = [table[[name for name in names if name in table]] for names in wanted]
    else:
        charts = []
    return [chart for chart in charts if len(chart) > 1 and len(chart.columns)]


def draw_chart(table: pd.DataFrame) -> altair.Chart:
    """A curve for each column, by epoch."""
    long = table.reset_index().melt("epoch", var_name="name")
    return (
        altair.Chart(long)
        .mark_line(point=len(table) < 30)
        .encode(
            altair.X("epoch:Q", title=text("epoch"), axis=altair.Axis(tickMinStep=1, format="d", grid=False)),
            altair.Y("value:Q", title=None, scale=altair.Scale(zero=False)),
            altair.Color("name:N", title=None, sort=list(table), legend=altair.Legend(orient="top")),
            altair.Tooltip(["epoch", "name", "value"]),
        )
        .properties(height=230, padding={"left": 5, "right": 12, "top": 5, "bottom": 5})
    )


def show_scores(scores: list[TestScores]) -> None:
    """What a call of test.py measured: the newest, or another that is chosen."""
    titles = [f"{each.when[:16].replace('T', ' ')} · {each.images or each.split}" for each in scores]
    newest_first = range(len(scores) - 1, -1, -1)
    number = newest_first[0]
    if len(scores) > 1:
        number = st.selectbox(
            text("call"), newest_first, format_func=titles.__getitem__, key="call", label_visibility="collapsed"
        )
    each = scores[number]
    models = ", ".join([*(Path(model["checkpoint"]).name for model in each.models), *filter(None, [each.decision])])
    measured = text("measured", number=each.num_images, models=models)
    st.caption(measured if len(scores) > 1 else f"{plain(titles[0])} · {measured}")
    rows = []
    for name, f1, accuracy in each.rows():
        low, high = each.intervals[f1]
        rows.append(
            {
                "": name or text("joint_class"),
                "F1": each.metrics[f1],
                text("interval"): f"{low:.3f} – {high:.3f}",
                text("accuracy"): each.metrics.get(accuracy),
            }
        )
    four = st.column_config.NumberColumn(format="%.4f")
    st.dataframe(pd.DataFrame(rows), hide_index=True, column_config={"F1": four, text("accuracy"): four})


if __name__ == "__main__":
    if not st.runtime.exists():
        print("the page is opened with: streamlit run app.py", file=sys.stderr)
        sys.exit(2)
    main()
