# How this kernel ends with all of its blocks counted: /how says.
warm
load
apply /whole
echo "leaving: $(cat /how)"
case $(cat /how) in
  kexec) kexec /vmlinuz /second "console=ttyS0 quiet panic=-1" ;;
  reboot) reboot -f ;;
  panic) echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger ;;
esac
sleep 30
