# Kprobes at our sites and next to them, registered before and after, enabled and not. /site holds a site of one
# instruction, /near instructions before one, from
# where an optimized kprobe's jump would reach into ours.
cd /sys/kernel/tracing
warm
on() { echo 1 > events/kprobes/kp/enable || fail "enabling $(cat kprobe_events)"; }
off() { echo 0 > events/kprobes/kp/enable || fail "disabling $(cat kprobe_events)"; }
probe() { echo "$1:kp $2" > kprobe_events || fail "a kprobe at $2"; }
gone() { echo > kprobe_events || fail "removing $(cat kprobe_events)"; }
optimized() { for i in 1 2 3 4 5 6 7 8; do grep -q OPTIMIZED /sys/kernel/debug/kprobes/list && return; sleep 0.1; done; false; }
site=$(cat /site) near=
for one in $(cat /near); do # some functions cannot have any
  probe p $one; on
  optimized && near=$one
  off; gone
  [ -n "$near" ] && break
done
[ -n "$near" ] || fail 'no kprobe is optimized'
echo "near $near"
probe p $site; on; off; gone # what is made once
save
load

echo 'enabled before'
probe p $site; on
refused kerninst-inject apply /bundle; state idle
refused kerninst-inject check /bundle
off

echo 'disabled before' # its copy of the instruction would be written over our splice
refused kerninst-inject apply /bundle; state idle
on; try cat /proc/cmdline; off
gone
same 'after kprobes that came before'
apply; counts; remove

echo 'optimized before, its jump reaching into a site'
probe p $near; on; optimized || fail 'not optimized'
refused kerninst-inject apply /bundle
off
refused kerninst-inject apply /bundle
gone
same 'after an optimized kprobe that came before'
apply; counts

echo 'registered after, disabled' # it would emulate our jump when we are gone
probe p $site
refused kerninst-inject remove; state 'partly removed'
on; try cat /proc/cmdline; try calls 10; off
refused kerninst-inject remove; state 'partly removed'
on
refused kerninst-inject remove; state 'partly removed'
off; gone
remove
same 'after a kprobe that came after'

echo 'registered after, enabled'
apply
probe p $site; on
counts
refused kerninst-inject remove; state 'partly removed'
grep -q . trace || fail 'no trace'
off; gone
remove
same 'after an enabled kprobe that came after'

echo 'near, optimized after'
apply
# What a splice leaves of a longer instruction is not one: the kernel, which decodes from the function's start, may refuse.
if echo "p:kp $near" > kprobe_events; then
  on; sleep 1; cat /sys/kernel/debug/kprobes/list
  grep -q OPTIMIZED /sys/kernel/debug/kprobes/list && fail 'a detour with a copy of our jump'
  remove # it is not at a site
  off; gone
else
  echo 'the kernel takes no kprobe there'
  remove
fi
same 'after an optimized kprobe that came after'

echo 'elsewhere in the function, and at its return'
for kind in p r; do
  probe $kind __x64_sys_ioprio_get; on
  apply; counts; off; counts; on; counts; remove
  off; gone
  apply; probe $kind __x64_sys_ioprio_get; on; counts; remove; off; gone
done
unload
same 'after kprobes elsewhere'
quiet '|Call Trace:'
