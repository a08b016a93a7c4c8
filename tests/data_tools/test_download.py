"""Downloads, with the hub played by a function: there is no network in tests."""

import huggingface_hub
import pytest

from data_tools.download import BENCHMARKS, DownloadArguments, DownloadError, download, main
from data_tools.sources import SOURCES, named
from data_tools.sources.base import SourceError
from launch.recipe import ROOT


def test_what_the_hub_has_is_fetched(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **settings: calls.append((args, settings)))
    folders = download(named("nextgqa"), tmp_path)
    assert folders == [tmp_path / "rhymes-ai--NeXTVideo"]
    settings = {"repo_type": "dataset", "allow_patterns": ["*.zip"], "local_dir": folders[0]}
    assert calls == [(("rhymes-ai/NeXTVideo",), settings)]


def test_without_a_network_it_says_so(tmp_path):
    with pytest.raises(DownloadError, match=r"cannot download the data set lmms-eval/charades_sta .*needs a network"):
        download(named("charades_sta"), tmp_path)
    with pytest.raises(DownloadError, match="activitynet is not on the hub"):
        download(named("activitynet"), tmp_path)


def test_the_command_shows_licence_and_layout_first(tmp_path, capsys):
    with pytest.raises(DownloadError):
        main(DownloadArguments(source="charades_sta", to=tmp_path))
    shown = capsys.readouterr().out
    assert "non-commercial" in shown and "<video id>.mp4" in shown
    with pytest.raises(SourceError, match="choose from"):
        main(DownloadArguments(source="nothing"))


# Label files of the authors' repository, as its tree has them (8b71188).
CAMREASONER = {
    "camreasoner_sft": "LLaMA-Factory/data/camerabench_sft.json",
    "camreasoner_rl": "EasyR1/camerabench_rl.json",
    "camreasoner_eval": "Inference/camerabench_binary.json",
    "camreasoner_vqa": "Inference/camerabench_vqa.json",
}


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("camreasoner_")])
def test_camreasoner_s_labels_lie_in_its_authors_repository(name, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **settings: None)
    main(DownloadArguments(source=name))
    assert f"labels:     github.com/wuhang03/CamReasoner: {CAMREASONER[name]}\n" in capsys.readouterr().out


def test_a_benchmark_without_a_source_is_told_where_it_lies():
    with pytest.raises(
        DownloadError, match=r"shotbench is a benchmark.* Vchitect/ShotBench on the hub.*evaluation\.md"
    ):
        main(DownloadArguments(source="shotbench"))
    page = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    assert [name for name in BENCHMARKS if f"| `{name}` |" not in page or name in SOURCES] == []
