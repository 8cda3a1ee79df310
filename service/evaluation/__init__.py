"""`oubli evaluate`: the paper's table. Methods that can forget, built, asked, made to forget and attacked alike.

`pool` what is learned from · `learners` what can be built of it · `methods` who builds what, and who answers ·
`forgetting` what a deletion costs · `trial` whether it is exact, and whether an attacker sees who has gone · `worth`
whether prompts earn their place · `search` settings · `study` all of it, resumable · `spread` over processes · `report`
the table and its plots.
"""
