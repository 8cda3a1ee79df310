"""`oubli evaluate`: the paper's table. Methods that can forget, built, asked, made to forget and attacked alike.

`pool` the samples · `learners` the models that can be built of them · `methods` which models each method builds, and
which of them answer · `forgetting` the cost of a deletion · `trial` exactness, and what an attacker learns · `worth`
whether prompts are better than heads alone · `search` settings · `study` all of it, resumable · `spread` over
processes · `report` the table and its plots.
"""
