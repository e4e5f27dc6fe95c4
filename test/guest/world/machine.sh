# What happens to the machine: CPUs that go and come (of four), NMIs, sleep. The test on the other side answers the lines
# that begin with @: '@sleep' is about to suspend to RAM and wants to be woken, '@nmi on' wants NMIs.
online() { echo $2 > /sys/devices/system/cpu/cpu$1/online || fail "CPU $1 online: $2"; }
nmis() { for n in 1 2 3; do echo l > /proc/sysrq-trigger; done; } # on all CPUs; those that come too soon are one
warm
for i in 1 2 3; do online $i 0; done; for i in 1 2 3; do online $i 1; done
save
load; load

echo 'CPUs go and come'
online 1 0
apply
grows __x64_sys_ioprio_get 700 calls 700 3
online 3 0 # and what it counted stays
set -- $(ours __x64_sys_ioprio_get); [ "$1" = 700 ] || fail "CPU 3 took its counts along: $1"
online 1 1
grows __x64_sys_ioprio_get 400 calls 400 1
online 3 1
grows __x64_sys_ioprio_get 300 calls 300 3
online 2 0
remove
online 2 1
same 'after CPUs went and came'

(while [ ! -e /tmp/still ]; do for i in 1 2 3; do online $i 0; done; for i in 1 2 3; do online $i 1; done; done) & flips=$!
for i in $(seq 1 6); do apply; grows __x64_sys_ioprio_get 500 calls 500; remove; done
touch /tmp/still; wait $flips || fail 'flipping CPUs'
same 'after CPUs went and came all the time'

echo '@nmi on'
for i in $(seq 1 8); do
  nmis # QEMU's go to CPU 0
  apply; [ $((i % 4)) = 0 ] && grows __x64_sys_ioprio_get 500 calls 500; nmis; remove
done
echo '@nmi off'
echo "NMIs: $(awk '/NMI:/ { print $2, $3, $4, $5 }' /proc/interrupts)"
same 'after NMIs'
quiet
dmesg -c > /dev/null

# Not to idle (freeze): QEMU's machine does not wake from that, with or without us.
apply; grows __x64_sys_ioprio_get 700 calls 700 3
echo '@sleep'
echo mem > /sys/power/state || fail 'suspend to RAM'
echo 'awake'
set -- $(ours __x64_sys_ioprio_get); [ "$1" = 700 ] || fail "sleep took counts along: $1"
counts; grows __x64_sys_ioprio_get 700 calls 700 3
remove
unload
same 'after sleep'
quiet '|Call Trace:'
