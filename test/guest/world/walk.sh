# What the kernel's unwinder makes of threads in patches (test/guest/walk.c).
warm
apply
load; load
sleep 1
area=$(awk '$3 == "kerninst_area" { print "0x" $1 }' /proc/kallsyms)
try insmod /walk.ko area=$area bytes=33554432 scans=400
unload
dmesg | grep walk: || fail 'no walk'
remove
try rmmod walk
quiet '|Call Trace:'
