# Kprobes at our sites and next to them, registered before and after, enabled and not. /site holds a site of one
# instruction, /near instructions before one, from where an optimized kprobe's jump would reach into ours. /outside holds
# all instructions of some functions that are no site's, /inside those of sites but the first. /hidden is a bundle that moves
# a jump, /hiding the instruction before that jump's target.
cd /sys/kernel/tracing
warm
on() { echo 1 > events/kprobes/kp/enable || fail "enabling $(cat kprobe_events)"; }
off() { echo 0 > events/kprobes/kp/enable || fail "disabling $(cat kprobe_events)"; }
probe() { echo "$1:kp $2" > kprobe_events || fail "a kprobe at $2"; }
gone() { echo > kprobe_events || fail "removing $(cat kprobe_events)"; }
taken() { # of the places in a file, those that the kernel takes a kprobe at
  n=0
  while read -r place; do echo "p:taken/k$((n += 1)) $place" 2> /dev/null >> kprobe_events && echo $place; done < $1
  gone
}
optimized() { for i in 1 2 3 4 5 6 7 8; do grep -q OPTIMIZED /sys/kernel/debug/kprobes/list && return; sleep 0.1; done; false; }
plain() { sleep 3; ! optimized || fail "optimized: $(cat kprobe_events)"; }
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

echo 'near, after'
apply
probe p $near; on; plain
remove # it is not at a site
off; on; plain # once denied, always denied
off; gone
same 'after a kprobe nearby that came after'
probe p $near; on; optimized || fail 'not optimized, and we are gone'
off; gone

echo 'where we hide a jump into its reach' # if it became a jump, the load would crash
apply /hidden
probe p $(cat /hiding); on; plain; try workload 1
remove
plain; try workload 1
off; gone
same 'after a hidden jump'

echo 'all over some functions' # the kernel decodes each from its start, through our splices
taken /outside > /tmp/before; taken /inside > /tmp/before.inside
apply
taken /outside > /tmp/after; taken /inside > /tmp/after.inside
remove
echo "kprobes outside sites: $(wc -l < /tmp/before), beside us $(wc -l < /tmp/after); inside: $(wc -l < /tmp/before.inside), $(wc -l < /tmp/after.inside)"
cmp /tmp/before /tmp/after || fail 'places that the kernel does not take any more'
[ -s /tmp/after.inside ] && fail "the kernel takes kprobes where nobody runs: $(head /tmp/after.inside)"
same 'after many kprobes'

echo 'without the function tracer, which keeps kprobes from becoming jumps'
echo 0 > /proc/sys/kernel/ftrace_enabled
refused kerninst-inject check /bundle; refused kerninst-inject apply /bundle; state removed
grep -q 'kernel.ftrace_enabled=1' /tmp/said || fail 'no remedy'
echo 1 > /proc/sys/kernel/ftrace_enabled
apply
echo 0 2> /dev/null > /proc/sys/kernel/ftrace_enabled && fail 'it was switched off beside us'
counts; remove

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
