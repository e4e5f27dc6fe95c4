# What the scripts of test/guest/world.test.ts have in common. The first thing that is not as it should be ends the guest.

fail() { echo "failed: $1: $(tail -n 3 /tmp/said)"; dmesg | tail -n 5; exit 1; }
try() { "$@" >/tmp/said 2>&1 || fail "$*"; }
refused() { "$@" >/tmp/said 2>&1; code=$?; case $code in 76|77) ;; *) fail "$* ended with $code" ;; esac; }
state() { kerninst-inject status | grep -q "^state $1\$" || fail "the state is $(kerninst-inject status | head -n 1), not $1"; }
apply() { try kerninst-inject apply ${1:-/bundle}; state applied; }
remove() { try kerninst-inject remove; state removed; }
save() { try texthash save /tmp/text; }
same() { texthash diff /tmp/text >/tmp/said 2>&1 || { cat /tmp/said; fail "other text, $1"; }; }

load() { workload -t 100000 >/tmp/load 2>&1 & loads="$loads $!"; }
unload() { for l in $loads; do kill -0 $l || fail "load died: $(cat /tmp/load)"; kill $l; done; wait $loads; loads=; }

# grows FUNCTION BY COMMAND...: so often the function is entered, and left, while the command runs.
ours() { judge read /points | awk -v name=$1 '$1 == name { print $2, $3 }'; }
grows() {
  name=$1 by=$2; shift 2
  before=$(ours $name); try "$@"; after=$(ours $name)
  for i in 1 2; do
    grown=$(($(echo $after | cut -d ' ' -f $i) - $(echo $before | cut -d ' ' -f $i)))
    [ $grown = $by ] || fail "$name grew by $grown, not $by ($before, $after) while $* ran"
  done
}
counts() { grows __x64_sys_ioprio_get 1000 calls 1000; grows cmdline_proc_show 3 cat /proc/cmdline /proc/cmdline /proc/cmdline; }

# Flips once what flips once, before the text is saved.
warm() { try workload 1; try calls 1; dmesg -c > /dev/null; }
quiet() { dmesg | grep -E "WARNING:|BUG:|Oops|detected stall|lockup|general protection${1}" && exit 2; }
