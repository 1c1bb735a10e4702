"""metrics.csv across a resume."""

from launch.metrics_file import MetricsFile


def test_a_resumed_metrics_file_keeps_the_rows_before_its_checkpoint(tmp_path):
    first = MetricsFile(str(tmp_path))
    for step in (4, 9, 14):
        first.log_metrics({"epoch": 0, "train/loss": step / 10}, step)
    first.save()
    second = MetricsFile(str(tmp_path))
    second.go_on_from(10)  # iterations; steps count from 0
    second.log_metrics({"epoch": 1, "train/loss": 7.0, "test/new": 1.0}, 14)
    second.save()
    assert (tmp_path / "metrics.csv").read_text().split() == [
        "epoch,step,test/new,train/loss", "0,4,,0.4", "0,9,,0.9", "1,14,1.0,7.0"]  # fmt: skip


def test_a_run_that_is_made_longer_keeps_its_former_tests(tmp_path):
    first = MetricsFile(str(tmp_path))
    first.log_metrics({"epoch": 0, "train/loss": 0.5}, 9)
    first.log_metrics({"epoch": 0, "test/error": 0.25}, 10)  # Lightning counts a test's step from 1
    first.save()
    second = MetricsFile(str(tmp_path))
    second.go_on_from(10)
    second.log_metrics({"epoch": 1, "test/error": 0.125}, 20)
    second.save()
    assert (tmp_path / "metrics.csv").read_text().split() == [
        "epoch,step,test/error,train/loss", "0,9,,0.5", "0,10,0.25,", "1,20,0.125,"]  # fmt: skip


def test_a_resumed_metrics_file_has_the_keys_of_today(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,train/images_per_s\n0,4,8.0\n")
    file = MetricsFile(str(tmp_path))
    file.go_on_from(5)
    file.log_metrics({"epoch": 0, "train/examples_per_s": 9.0}, 9)
    file.save()
    assert (tmp_path / "metrics.csv").read_text().split() == ["epoch,step,train/examples_per_s", "0,4,8.0", "0,9,9.0"]
