"Many real jobs side by side: a table of methods by one command, and short jobs of which none may be lost or mixed."
import re, subprocess
from pathlib import Path
from test_sweep import command
from brainrecon.jobs.soak import check_soak, run_soak
from brainrecon.jobs.sweep import place_of, read_sweep


def test_report_over_all_that_is_finished(monkeypatch, tmp_path):
    "The small table of the library, run and reported by one command."
    monkeypatch.delenv('BRAINRECON_JOBS', raising=False)
    done = subprocess.run([*command, 'paper-table-quick', '--parallel', '2', '--out', str(tmp_path/'runs')], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    page = Path(re.search(r'report: (.*)', done.stdout)[1]).read_text(); name, title, found = read_sweep('paper-table-quick')
    assert title in page and 'simulated' in page and all(place_of(w, tmp_path/'runs').name in page for w in found)


def test_jobs_side_by_side_are_neither_lost_nor_mixed(monkeypatch, tmp_path):
    "A sample; `brainrecon run check/02_soak` runs a hundred."
    monkeypatch.delenv('BRAINRECON_JOBS', raising=False)
    workers, _ = run_soak(6, 3, tmp_path); found = check_soak(workers, tmp_path)
    assert found.pop('jobs') == 6 and not any(found.values()), found
