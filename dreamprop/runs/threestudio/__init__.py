"""Runs of unmodified threestudio systems: threestudio's own launch, with the loop over its steps solved.

What a run writes, and where, is threestudio's: `ckpts`, `save`, `configs`, `code`, `tb_logs`, `csv_logs`,
`cmd.txt` in its trial folder. Beside them stand `metrics.csv`, a line a round, and `summary.json`; and for a
comparison `report.html` and `report.json`, with the other runs in folders below.
"""
