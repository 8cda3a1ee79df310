"""Decoding clients' files to pixels, in processes that can be bounded and killed.

A thread cannot be stopped, and a file of a few hundred kilobytes can keep a decoder busy for minutes or make it write
where it must not. So files are decoded in processes of their own (`child`), which load Pillow and no tensors, and which
the kernel holds to a CPU budget for each image and to a bound on memory. `turns` chooses the caller whose file is next,
`decoders` keeps the processes, `protocol` is how they exchange files and pixels. Bounded, and no sandbox: a decoder
runs as the user that the API runs as, without its settings and secrets in the environment.
"""
