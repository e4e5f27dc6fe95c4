# Many at once: the kernel's unwinder, that looks at threads in patches (test/guest/walk.c); injectors that race, die, and
# read; the module that is to be unloaded under them, at last by force.
warm
save
load; load

echo 'walked'
apply
sleep 1
try insmod /walk.ko area=$(awk '$3 == "kerninst_area" { print "0x" $1 }' /proc/kallsyms) bytes=33554432 scans=200
dmesg | grep walk: || fail 'no walk'
remove; try rmmod walk
unload; load

echo 'eight apply at once'
for round in 1 2; do
  rm -f /tmp/go /tmp/won.*
  for i in 1 2 3 4 5 6 7 8; do
    (until [ -e /tmp/go ]; do :; done; kerninst-inject apply /bundle > /dev/null 2>&1; echo $? > /tmp/won.$i) &
    racers="$racers $!"
  done
  sleep 0.2; touch /tmp/go; wait $racers; racers=
  [ "$(cat /tmp/won.* | sort | uniq -c | awk '{ print $1 "x" $2 }' | tr '\n' ' ')" = '1x0 7x77 ' ] || fail "winners: $(cat /tmp/won.*)"
  state applied; counts; remove
done

echo 'eight do anything'
rm -f /tmp/did.*
for i in 1 2 3 4 5 6 7 8; do
  (RANDOM=$i; for n in $(seq 1 15); do
    case $((RANDOM % 4)) in
      0) what="apply /bundle" ;;
      1) what=remove ;;
      2) what=status ;;
      3) what="dump -o /tmp/dump.$i" ;;
    esac
    kerninst-inject $what > /dev/null 2> /tmp/why.$i; code=$?
    echo "$what $code" >> /tmp/did.$i
    # 76 would be text that is not as planned, 74 and 70 what should not happen.
    case $code in 0|77) ;; *) cp /tmp/why.$i /tmp/bad.$i ;; esac
  done) & racers="$racers $!"
done
wait $racers; racers=
cat /tmp/bad.* 2> /dev/null && fail 'an injector ended badly'
applied=$(grep -h '^apply.* 0$' /tmp/did.* | wc -l) removed=$(grep -h '^remove 0$' /tmp/did.* | wc -l)
echo "applied $applied times, removed $removed"
case $((applied - removed)) in 0) state removed ;; 1) state applied; counts; remove ;; *) fail "applied $applied, removed $removed" ;; esac

echo 'a reader keeps its heap'
apply; reader /tmp/stop > /tmp/reader 2>&1 & first=$!
sleep 0.3; remove; sleep 0.3; apply; reader /tmp/stop > /tmp/reader.2 2>&1 & second=$!
sleep 0.3; counts; remove; apply; sleep 0.3
touch /tmp/stop; wait $first || fail "reader: $(cat /tmp/reader)"; wait $second || fail "reader: $(cat /tmp/reader.2)"
cat /tmp/reader; remove

echo 'killed'
killed=0
for n in $(seq 1 30); do
  case $((n % 3)) in
    0) what="apply /bundle" ;;
    1) what="dump -o /tmp/dump" ;;
    2) what=remove ;;
  esac
  kerninst-inject $what > /dev/null 2>&1 & one=$!
  usleep $((RANDOM % 20000)); kill -9 $one 2> /dev/null; wait $one; [ $? = 137 ] && killed=$((killed + 1))
done
echo "killed $killed of 30"
kerninst-inject status > /tmp/said || fail status
grep -Eq '^state (applied|removed)$' /tmp/said || fail 'the state after kills'
grep -q '^state applied$' /tmp/said || apply
counts; remove
same 'after kills'
kerninst-inject dump -o /tmp/dump > /tmp/said 2>&1 || fail dump

echo 'unloading'
apply
rmmod kerninst 2> /tmp/said && fail 'unloaded while applied'
counts; remove
sleep 1000 < /dev/kerninst & holder=$!
sleep 0.1; rmmod kerninst 2> /tmp/said && fail 'unloaded while open'
kill $holder; wait $holder
try rmmod kerninst

echo 'unloaded by force'
forced() { rmmod -f kerninst > /tmp/forced 2>&1 & gone=$!; }
ended() { wait $gone || fail "rmmod -f: $(cat /tmp/forced)"; grep -q kerninst_area /proc/kallsyms && fail 'it is still there'; }
try insmod /kerninst.ko; apply; counts
forced; ended
same 'unloaded by force'
try insmod /kerninst.ko; apply; counts
sleep 1000 < /dev/kerninst & holder=$!
reader /tmp/stop.3 > /tmp/reader 2>&1 & first=$!
sleep 0.5; forced; sleep 2
kill -0 $gone || fail 'the module goes while it is open'
same 'unloaded by force while open' # which the module only waits for once everything is restored
kill $holder; wait $holder; sleep 0.3
kill -0 $gone || fail 'the module goes while it is mapped'
touch /tmp/stop.3; wait $first || fail "reader: $(cat /tmp/reader)"
ended; cat /tmp/reader
try calls 100
try insmod /kerninst.ko; apply; counts; remove; try rmmod kerninst
unload
same 'at the end'
quiet '|Call Trace:'
