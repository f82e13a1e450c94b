"""Reports as the kernel prints them, for tests: functions and numbers are made up."""

from __future__ import annotations

WARNING = b"""\
[   55.960000] ------------[ cut here ]------------
[   55.967976] WARNING: CPU: 1 PID: 812 at kernel/module/main.c:842 module_put+0x7d/0x90
[   55.967980] Modules linked in: ulp_demo(OE) tls xfs [last unloaded: ulp_old(OE)]
[   55.967985] CPU: 1 PID: 812 Comm: server Tainted: G        W  OE      6.1.0-18-amd64 #1  Debian 6.1.76-1
[   55.967990] Hardware name: QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.2 04/01/2014
[   55.967991] RIP: 0010:module_put+0x7d/0x90
[   55.967992] Code: 48 8b 47 08 c3 <0f> 0b 5b c3 66 90
[   55.967993] RSP: 0018:ffffb1c2405c3d90 EFLAGS: 00010297
[   55.967994] RAX: 00000000ffffffff RBX: ffffffffc0a4b0c0 RCX: 0000000000000000
[   55.967995] RDX: 0000000000000001 RSI: ffffffffc0a48000 RDI: ffffffffc0a4b0c0
[   55.967996] CR2: 00007f0e2c1a5000 CR3: 0000000104b2e000 CR4: 0000000000750ee0
[   55.968000] Call Trace:
[   55.968001]  <TASK>
[   55.968002]  tcp_cleanup_ulp+0x2b/0x40
[   55.968003]  tcp_v4_destroy_sock+0x56/0x200
[   55.968004]  ? inet_csk_destroy_sock+0x40/0x140
[   55.968005]  inet_csk_destroy_sock+0x5c/0x140
[   55.968006]  __tcp_close+0x2d5/0x480
[   55.968007]  tcp_close+0x22/0xa0
[   55.968008]  inet_release+0x43/0x80
[   55.968009]  __sock_release+0x3f/0xb0
[   55.968010]  do_syscall_64+0x59/0xb0
[   55.968011]  entry_SYSCALL_64_after_hwframe+0x6e/0xd8
[   55.968012] RIP: 0033:0x7f0e2c0f1a57
[   55.968013] RAX: ffffffffffffffda RBX: 00000000000003e8 RCX: 00007f0e2c0f1a57
[   55.968014]  </TASK>
[   55.968015] ---[ end trace 0000000000000000 ]---
"""

REFCOUNT = b"""\
[  101.000001][  T900] ------------[ cut here ]------------
[  101.000002][  T900] refcount_t: underflow; use-after-free.
[  101.000003][  T900] WARNING: CPU: 0 PID: 900 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110
[  101.000004][  T900] Modules linked in:
[  101.000005][  T900] CPU: 0 PID: 900 Comm: ip Not tainted 6.8.0 #1
[  101.000006][  T900] RIP: 0010:refcount_warn_saturate+0xba/0x110
[  101.000007][  T900] Call Trace:
[  101.000008][  T900]  <TASK>
[  101.000009][  T900]  vethx_put_peer+0x31/0x60 [vethx]
[  101.000010][  T900]  vethx_dellink+0x55/0x90 [vethx]
[  101.000011][  T900]  rtnl_delete_link+0x40/0x70
[  101.000012][  T900]  </TASK>
[  101.000013][  T900] Kernel panic - not syncing: kernel: panic_on_warn set ...
"""

KASAN = b"""\
[   41.100000][ T4242] ==================================================================
[   41.100001][ T4242] BUG: KASAN: slab-use-after-free in foo_release+0x51/0x90
[   41.100002][ T4242] Read of size 8 at addr ffff88810b3a4c38 by task poke/4242
[   41.100003][ T4242]
[   41.100004][ T4242] CPU: 2 UID: 0 PID: 4242 Comm: poke Not tainted 6.12.0 #3
[   41.100005][ T4242] Hardware name: linux,dummy-virt (DT)
[   41.100006][ T4242] Call Trace:
[   41.100007][ T4242]  <TASK>
[   41.100008][ T4242]  dump_stack_lvl+0x53/0x70
[   41.100009][ T4242]  print_report+0xce/0x620
[   41.100010][ T4242]  kasan_report+0xc6/0x100
[   41.100011][ T4242]  foo_release+0x51/0x90
[   41.100012][ T4242]  __fput+0x3d1/0xa20
[   41.100013][ T4242]  </TASK>
[   41.100014][ T4242]
[   41.100015][ T4242] Allocated by task 4242:
[   41.100016][ T4242]  kasan_save_stack+0x24/0x50
[   41.100017][ T4242]  foo_open+0x21/0x80
[   41.100018][ T4242]
[   41.100019][ T4242] Freed by task 4243:
[   41.100020][ T4242]  kasan_save_stack+0x24/0x50
[   41.100021][ T4242]  foo_evict+0x33/0x70
[   41.100022][ T4242] ==================================================================
"""

GPF = b"""\
[   77.000000][    C1] general protection fault, maybe for address 0xdffffc0000000007: 0000 [#1] SMP
[   77.000001][    C1] KASAN: null-ptr-deref in range [0x0000000000000038-0x000000000000003f]
[   77.000002][    C1] CPU: 1 UID: 0 PID: 0 Comm: swapper/1 Not tainted 6.13.0 #5 PREEMPT(full)
[   77.000003][    C1] RIP: 0010:bar_timeout+0x44/0x120
[   77.000004][    C1] RAX: dffffc0000000000 RBX: 0000000000000038 RCX: 0000000000000000
[   77.000005][    C1] Call Trace:
[   77.000006][    C1]  <IRQ>
[   77.000007][    C1]  call_timer_fn+0x19a/0x4f0
[   77.000008][    C1]  handle_softirqs+0x1d4/0x8e0
[   77.000009][    C1]  irq_exit_rcu+0xa/0x30
[   77.000010][    C1]  </IRQ>
[   77.000011][    C1]  <TASK>
[   77.000012][    C1]  default_idle+0xb/0x20
[   77.000013][    C1]  </TASK>
[   77.000014][    C1] ---[ end trace 0000000000000000 ]---
[   77.000015][    C1] Kernel panic - not syncing: Fatal exception in interrupt
"""

LOCKDEP = b"""\
[   90.000000][  T311] ======================================================
[   90.000001][  T311] WARNING: possible circular locking dependency detected
[   90.000002][  T311] 6.9.0 #2 Not tainted
[   90.000003][  T311] ------------------------------------------------------
[   90.000004][  T311] locker/311 is trying to acquire lock:
[   90.000005][  T311] ffff888104a1c0a8 (&a->mutex){+.+.}-{3:3}, at: take_a+0x1e/0x40
[   90.000006][  T311]
[   90.000007][  T311] but task is already holding lock:
[   90.000008][  T311] ffff888104a1c128 (&b->mutex){+.+.}-{3:3}, at: take_b+0x1e/0x40
[   90.000009][  T311]
[   90.000010][  T311] the existing dependency chain (in reverse order) is:
[   90.000011][  T311]
[   90.000012][  T311] -> #1 (&b->mutex){+.+.}-{3:3}:
[   90.000013][  T311]        __mutex_lock+0x97/0xa80
[   90.000014][  T311]        take_b_under_a+0x2a/0x60
[   90.000015][  T311]
[   90.000016][  T311] -> #0 (&a->mutex){+.+.}-{3:3}:
[   90.000017][  T311]        __lock_acquire+0x1405/0x2150
[   90.000018][  T311]        take_a+0x1e/0x40
[   90.000019][  T311]
[   90.000020][  T311] stack backtrace:
[   90.000021][  T311] CPU: 0 PID: 311 Comm: locker Not tainted 6.9.0 #2
[   90.000022][  T311] Call Trace:
[   90.000023][  T311]  take_a+0x1e/0x40
[   90.000024][  T311]  take_both+0x11/0x30
"""

HUNG = b"""\
[  245.000000][   T31] INFO: task writer:777 blocked for more than 120 seconds.
[  245.000001][   T31]       Not tainted 6.9.0 #2
[  245.000002][   T31] task:writer          state:D stack:0     pid:777   ppid:1      flags:0x00000002
[  245.000003][   T31] Call Trace:
[  245.000004][   T31]  <TASK>
[  245.000005][   T31]  __schedule+0x3a1/0xf40
[  245.000006][   T31]  schedule+0x2b/0xe0
[  245.000007][   T31]  __mutex_lock+0x540/0xa80
[  245.000008][   T31]  store_value+0x2c/0x70
[  245.000009][   T31]  vfs_write+0x2b7/0x520
[  245.000010][   T31]  </TASK>
[  245.000011][   T31]
[  245.000012][   T31] Showing all locks held in the system:
[  245.000013][   T31] 1 lock held by owner/700:
[  245.000014][   T31]  #0: ffff888104a1c0a8 (&store->lock){+.+.}-{3:3}, at: keep_lock+0x1e/0x40
[  245.000015][   T31] 2 locks held by writer/777:
[  245.000016][   T31]  #0: ffff888101c3e420 (sb_writers#7){.+.+}-{0:0}, at: vfs_write+0x2b7/0x520
[  245.000017][   T31]  #1: ffff888104a1c0a8 (&store->lock){+.+.}-{3:3}, at: store_value+0x2c/0x70
"""
