# Bundles applied and removed, while others register kprobes, trace, load modules, flip static keys, and take CPUs 2 and 3
# (of four) away and back. A line of /cycles: a bundle, the limit of a stop in ms or -, and how many calls to make.
cd /sys/kernel/tracing
echo 'vfs_* tcp_* do_sys_* ksys_* __x64_sys_* cmdline_proc_show' > set_ftrace_filter
more() { echo $(($(cat /tmp/$1 2> /dev/null || echo 0) + 1)) > /tmp/$1; }
until_calm() { while [ ! -e /tmp/calm ]; do "$@"; more did.$1; done; }

kprobes() { # the kernel may not want one where a splice is
  : > kprobe_events
  for place in $(shuf -n 6 /probes); do
    kind=p; [ $((RANDOM % 4)) = 0 ] && kind=r
    echo "$kind:kp/k$((RANDOM * 32768 + RANDOM)) $place" >> kprobe_events && more registered || more unwanted
  done 2> /dev/null
  if [ -e events/kp ] && [ $((RANDOM % 3)) != 0 ]; then
    echo 1 > events/kp/enable; usleep 300000; echo 0 > events/kp/enable
  fi
  usleep 200000; : > kprobe_events || fail "kprobes that stay: $(cat kprobe_events)"; usleep 500000
}
tracer() { for t in function nop; do echo $t > current_tracer || fail "tracer $t"; usleep 500000; done; sleep 1; }
modules() { insmod /small.ko || fail 'insmod small'; usleep 300000; rmmod small || fail 'rmmod small'; usleep 300000; }
plugs() { for to in 0 1; do for i in 2 3; do echo $to > /sys/devices/system/cpu/cpu$i/online || fail "CPU $i: $to"; usleep 300000; done; done; }
keys() { for to in 1 0; do echo $to > /proc/sys/kernel/sched_schedstats; usleep 400000; done; }

disturb() { rm -f /tmp/calm; for one in kprobes tracer modules plugs keys; do until_calm $one & others="$others $!"; done; }
calm() { touch /tmp/calm; for o in $others; do wait $o || fail 'one of the others ended'; done; others=; echo > trace; }

# The injector's last words decide whether it is tried again, for 60 s.
again() {
  cp /tmp/words /tmp/said
  tries=$((tries + 1)); [ $1 = 77 ] && [ $tries -lt 300 ] || fail "$2 ended with $1"
  usleep 200000
}

warm; disturb; sleep 6; calm
save
load; load; disturb

n=0 applied=0 refused=0 left=0 limited=0
while read -r bundle limit calls <&3; do
  n=$((n + 1)) tries=0
  [ $limit = - ] && limit= || limit="--max-stop-ms $limit"
  until kerninst-inject apply $limit /bundle.$bundle > /tmp/words 2>&1; do
    code=$?
    if grep -q 'are allowed: nothing was done' /tmp/words; then limit= limited=$((limited + 1)); fi
    grep -Eq 'kprobe|are allowed' /tmp/words || tries=1000
    grep -q kprobe /tmp/words && refused=$((refused + 1))
    # Not all that was written may have been taken back.
    kerninst-inject status | grep -q '^state partly' && kerninst-inject remove > /tmp/said 2>&1
    again $code "apply $limit, cycle $n"
  done
  applied=$((applied + 1)) words=$(cat /tmp/words) tries=0
  try calls $calls
  until kerninst-inject remove $limit > /tmp/words 2>&1; do
    code=$?
    if grep -q 'are allowed: nothing was done' /tmp/words; then limit= limited=$((limited + 1)); else left=$((left + 1)); fi
    grep -Eq 'kprobe|are allowed' /tmp/words || tries=1000
    again $code "remove $limit, cycle $n"
  done
  grown=$(judge read /points.$bundle | awk '{ print $2, $3 }')
  [ "$grown" = "$calls $calls" ] || fail "cycle $n: $calls calls were counted as $grown"
  echo "cycle $n: bundle $bundle ${limit:-without limit}: $words; $(cat /tmp/words)"
done 3< /cycles
echo "did $applied $refused $left $limited"
calm
unload
same 'at the end'
echo "others: $(cat /tmp/registered) kprobes registered, $(cat /tmp/unwanted) not taken$(for one in tracer modules plugs keys; do echo ", $one $(cat /tmp/did.$one)"; done | tr -d '\n') times"
quiet '|Call Trace:'
