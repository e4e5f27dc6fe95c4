# All blocks of the kernel at once, while CPUs go and come, with NMIs, and over sleep: in these, the kernel runs code of its
# own where nothing is as it usually is. The lines that begin with @: as in machine.sh.
online() { echo $2 > /sys/devices/system/cpu/cpu$1/online || fail "CPU $1 online: $2"; }
warm
for i in 1 2 3; do online $i 0; done; for i in 1 2 3; do online $i 1; done
save
load
echo 'applying'
apply /whole
echo 'CPUs go and come'
for round in 1 2 3; do for i in 1 2 3; do online $i 0; done; try calls 100; for i in 1 2 3; do online $i 1; done; done
echo '@nmi on'
echo l > /proc/sysrq-trigger; try workload 1; echo l > /proc/sysrq-trigger
echo '@nmi off'
dmesg -c > /dev/null
echo '@sleep'
echo mem > /sys/power/state || fail 'suspend to RAM'
echo 'awake'
try workload 1
try kerninst-inject dump -o /tmp/dump
echo 'removing'
remove
unload
same 'after all blocks'
quiet '|Call Trace:'
