# A broad workload for a guest with busybox: as many different parts of the kernel as a small userland reaches, and every
# result checked, so that a wrong register shows as a wrong answer where it does not crash. Ends with 1 and a line where
# something is wrong. Leaves nothing behind but what is in /tmp/broad.
# Left out: what needs other modules, disks or a network card.

# Also from within a pipe, where exit ends only that.
fail() { echo "broad: $*"; touch /tmp/broad.failed; exit 1; }
rm -rf /tmp/broad /tmp/broad.failed; mkdir /tmp/broad && cd /tmp/broad || fail mkdir

# Files and what they hold.
dd if=/dev/urandom of=a bs=64k count=8 2>/dev/null || fail dd
sum=$(sha256sum < a)
same() { [ "$(sha256sum)" = "$sum" ] || fail "$1: other bytes"; }
cp a b; same cp < b
gzip -c a | gunzip | same gzip
bzip2 -c a | bunzip2 | same bzip2
tar c a b | tar x -O a | same tar
cat a | cat | cat | same pipes
mkfifo pipe; cat a > pipe & same fifo < pipe; wait
for i in 0 1 2 3; do dd if=a of=part$i bs=131072 skip=$i count=1 2>/dev/null; done; cat part* | same parts
ln a hard; ln -s hard soft; same link < soft; mv hard moved; [ -e soft ] && fail 'a link that should dangle'
truncate -s 3000000 sparse; [ "$(stat -c %s sparse)" = 3000000 ] || fail truncate
dd if=a of=sparse bs=4096 seek=100 conv=notrunc 2>/dev/null; dd if=sparse bs=4096 skip=100 count=128 2>/dev/null | same sparse
for i in $(seq 1 200); do mkdir -p tree/$((i % 13)); echo "$i" > tree/$((i % 13))/f$i; done
[ "$(find tree -type f | wc -l)" = 200 ] || fail find
[ "$(cat tree/*/f* | awk '{ s += $1 } END { print s }')" = 20100 ] || fail sum
cp -a tree copy; diff -r tree copy || fail 'cp -a'
chmod -R 700 copy; chown -R 1:2 copy; [ "$(stat -c %u:%g:%a copy/0)" = 1:2:700 ] || fail chown
touch -d '2001-02-03 04:05:06' a; [ "$(stat -c %Y a)" = 981173106 ] || fail touch
rm -rf copy tree; df > /dev/null; sync

# Mounts.
mkdir m n
for fs in tmpfs ramfs; do
  mount -t $fs none m && cp a m/a && same $fs < m/a && mount --bind m n && same bind < n/a && umount n && umount m || fail $fs
done
mount -t tmpfs -o size=64k none m && dd if=a of=m/a bs=4k 2>/dev/null && fail 'a full file system took more'
mount -o remount,ro m; touch m/x 2>/dev/null && fail 'a read-only file system took more'
umount m || fail umount
if grep -qw cgroup2 /proc/filesystems; then
  mount -t cgroup2 none m && mkdir m/g && echo $$ > m/g/cgroup.procs && cat m/g/* > /dev/null 2>&1
  echo $$ > m/cgroup.procs; rmdir m/g; umount m || fail cgroup
fi
if grep -qw ext4 /proc/filesystems && dd if=/dev/zero of=disk bs=1M count=16 2>/dev/null && mke2fs -F disk > /dev/null 2>&1 &&
  mount -t ext4 -o loop disk m 2>/dev/null; then
  cp a m/a; sync; umount m; mount -t ext4 -o loop disk m; same ext4 < m/a; umount m
fi

# Everything that can be read of the kernel itself. Some files fail to be read; none may hang or crash.
find /proc -type f -perm -400 ! -name kmsg ! -name kcore ! -path '/proc/[0-9]*/*' ! -path '/proc/sys/*' 2>/dev/null |
  while read -r f; do timeout 5 dd if="$f" of=/dev/null bs=64k count=16 2>/dev/null < /dev/null; done
for p in 1 self 2; do
  for f in /proc/$p/*; do [ -f "$f" ] && timeout 5 dd if="$f" of=/dev/null bs=4k count=64 2>/dev/null; done
done
find /sys -path /sys/kernel/debug -prune -o -path /sys/kernel/tracing -prune -o -type f -perm -400 -print 2>/dev/null | awk 'NR % 4 == 0' | head -700 |
  while read -r f; do dd if="$f" of=/dev/null bs=4k count=16 2>/dev/null < /dev/null; done
sysctl -a > /dev/null 2>&1; ps > /dev/null; free > /dev/null; uptime > /dev/null; top -bn1 > /dev/null 2>&1; lsof > /dev/null 2>&1
cat /sys/kernel/tracing/available_filter_functions > /dev/null

# Processes, namespaces, signals, limits.
[ "$(seq 1 300 | xargs -n 1 -P 4 echo | sort -n | awk '{ s += $1 } END { print s }')" = 45150 ] || fail xargs
[ "$(for i in 1 2 3 4 5 6 7 8; do (for j in 1 2 3 4 5; do echo $((i * j)); done) & done | wc -l; wait)" = 40 ] || fail subshells
sleep 100 & kill -TERM $!; wait $!; [ $? = 143 ] || fail kill
timeout -s INT 0.2 sleep 100; [ $? = 130 ] || [ $? = 143 ] || [ $? = 124 ] || fail timeout
unshare -m -u -i -n -p -f sh -c 'hostname other; mount -t proc none /proc; [ "$(hostname)" = other ] && ip link set lo up && ping -c 1 127.0.0.1' > /dev/null || fail unshare
[ "$(hostname)" = guest ] || fail 'the name changed outside'
(ulimit -v 30000; awk 'BEGIN { for (i = 0; i < 1e6; i++) a[i] = i }' 2>/dev/null) && fail 'a limit that did not hold'
taskset 1 true; renice 3 $$ > /dev/null 2>&1; setsid true
chroot / /bin/true || fail chroot

# Memory.
[ "$(awk 'BEGIN { for (i = 0; i < 200000; i++) a[i] = i; for (i in a) s += a[i]; printf "%d", s }')" = 1409965408 ] ||
  [ "$(awk 'BEGIN { for (i = 0; i < 200000; i++) a[i] = i; for (i in a) s += a[i]; printf "%.0f", s }')" = 19999900000 ] || fail awk
seq 1 30000 > sorted; shuf sorted | sort -n | cmp - sorted || fail sort
echo 3 > /proc/sys/vm/drop_caches; echo 1 > /proc/sys/vm/compact_memory 2>/dev/null; same 'after drop_caches' < b

# Network over loopback, IPv4 and IPv6, TCP and UDP and ICMP.
ip addr add 10.9.8.7/24 dev lo; ip route > /dev/null; ip -6 addr > /dev/null; ip neigh > /dev/null; netstat -an > /dev/null; ifconfig > /dev/null
ping -c 2 -s 3000 10.9.8.7 > /dev/null || fail ping
ping6 -c 2 ::1 > /dev/null 2>&1
httpd -p 8080 -h /tmp/broad || fail httpd
for i in 1 2 3; do wget -q -O - http://10.9.8.7:8080/b | same wget; done
killall httpd
# Either end of nc leaves when the other has no more to say, so the receiver keeps its input open.
sleep 2 | nc -l -p 5000 > back & sleep 0.5; nc 127.0.0.1 5000 < a > /dev/null; wait $!; same nc < back
ip addr del 10.9.8.7/24 dev lo; arp > /dev/null; route > /dev/null; traceroute -n -m 2 -w 1 127.0.0.1 > /dev/null 2>&1

# The kernel's own tracers, on functions that all of the above calls.
cd /sys/kernel/tracing || fail tracing
echo 'vfs_* tcp_* __alloc_* do_*' > set_ftrace_filter
for tracer in function function_graph; do
  echo $tracer > current_tracer || fail "$tracer"
  cp /tmp/broad/a /tmp/broad/c; wget -q -O /dev/null http://127.0.0.1:1/ 2>/dev/null
  dd if=trace of=/dev/null bs=64k count=20 2>/dev/null
done
echo nop > current_tracer; echo > set_ftrace_filter
echo 'p:kp vfs_read count=%dx' > kprobe_events && echo 'r:kr vfs_read $retval' >> kprobe_events && echo 1 > events/kprobes/enable &&
  dd if=/tmp/broad/a of=/dev/null bs=64k 2>/dev/null
grep -q kp: trace || fail kprobe
echo 0 > events/kprobes/enable; echo > kprobe_events; echo > trace
cd /tmp/broad || fail cd
same 'at the end' < a
cd /; rm -rf /tmp/broad; [ ! -e /tmp/broad.failed ]
