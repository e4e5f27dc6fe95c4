# The other writers of kernel text: tracers, livepatch, static keys, modules; before us and while we are applied.
cd /sys/kernel/tracing
tracer() { echo $1 > current_tracer || fail "tracer $1"; }
patched() { # 0 or 1: livepatch is to be off or on, for every task
  for i in $(seq 1 300); do
    [ "$(cat /sys/kernel/livepatch/livepatch/transition 2>/dev/null || echo 0)" = 0 ] && break
    sleep 0.1
  done
  [ $i -lt 300 ] || fail "livepatch's transition does not end"
  [ $1 = 1 ] && { grep -q '^livepatched$' /proc/cmdline || fail 'not livepatched'; }
  [ $1 = 0 ] && { grep -q '^livepatched$' /proc/cmdline && fail 'still livepatched'; }
  echo "livepatch $1 after $i looks"
}
enable() { try insmod /livepatch.ko; patched 1; }
disable() { echo 0 > /sys/kernel/livepatch/livepatch/enabled || fail 'livepatch off'; patched 0; try rmmod livepatch; }

echo 'vfs_* cmdline_proc_show __x64_sys_ioprio_get do_sys_openat2 tcp_*' > set_ftrace_filter
warm
for t in function function_graph nop; do tracer $t; try workload 1; done
enable; disable
echo 1 > events/sched/enable; echo 0 > events/sched/enable; echo 1 > /proc/sys/kernel/sched_schedstats; echo 0 > /proc/sys/kernel/sched_schedstats
save
load; load

for t in function function_graph; do
  echo "$t before, and off while applied"
  tracer $t; apply; counts; tracer nop; counts; remove
  echo "$t while applied, and still on when removed"
  apply; tracer $t; counts; remove; apply; counts; remove; tracer nop
done
echo > trace
same 'after tracers'

echo 'livepatch before, and off while applied'
enable; apply
grows __x64_sys_ioprio_get 1000 calls 1000; grows cmdline_proc_show 0 cat /proc/cmdline
disable
counts; remove
echo 'livepatch while applied, and still on when removed'
apply; counts; enable
grows cmdline_proc_show 0 cat /proc/cmdline
remove; disable
echo 'livepatch on and off while applied'
apply; enable; disable; counts; remove
same 'after livepatch'

echo 'static keys'
echo 1 > events/sched/enable; apply; counts; echo 0 > events/sched/enable; echo 1 > /proc/sys/kernel/sched_schedstats; counts; remove
apply; echo 1 > events/sched/enable; echo 0 > /proc/sys/kernel/sched_schedstats; counts; remove; echo 0 > events/sched/enable
same 'after static keys'

echo 'modules'
try insmod /walk.ko scans=0; apply; try rmmod walk; counts; try insmod /walk.ko scans=0; counts; remove; try rmmod walk
unload
same 'at the end'
quiet '|Call Trace:'
