"""Serve the weights named on the command line, OpenAI-style, until standard input closes."""

import sys

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_ctx = 2048
parameters.n_parallel = 1
parameters.port = 0
parameters.warmup = False
# Threads wait for one another by spinning: beside other tests, two of them take longer than one.
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
sys.stdin.read()
