# The essential, on kernels that are not cloud kernels: under load, with and without a limit of a stop, counts that are known.
warm
save
load
for limit in '' '--max-stop-ms 2000'; do
  try kerninst-inject check $limit /bundle
  try kerninst-inject apply $limit /bundle; state applied
  counts
  for t in function nop; do echo $t > /sys/kernel/tracing/current_tracer || fail "tracer $t"; counts; done
  try kerninst-inject reset $limit
  counts
  try kerninst-inject dump -o /tmp/dump
  try kerninst-inject remove $limit; state removed
  same "round with '$limit'"
done
unload
try rmmod kerninst
quiet '|Call Trace:'
