"""Functions that a crash is never named after: they carry the message, or were only asked to do it.

Patterns are searched anywhere in a function's name. A name belongs here when the same bug, in the same
caller, would otherwise come under several titles, or when many bugs would come under one.
"""

from __future__ import annotations

import re

REPORTING = (
    # The sanitizers and their hooks.
    "__sanitizer", "__asan", "kasan", "hwasan", "__msan", "kmsan", "kcsan_setup_watchpoint",
    "check_memory_region", "read_word_at_a_time", "(?:read|write)_once_.*nocheck",
    "print_address_description", "print_report",
    # Oopses, warnings, panics and the printing of stacks.
    "panic", "invalid_op", "report_bug", "fixup_bug", "print_usage_bug", "do_error", "_trap$|do_trap",
    "show_stack", "dump_stack", "walk_stack", "dump_backtrace", "warn_slowpath", "warn_alloc", "warn_bogus",
    "__warn", "print_tainted", "^get_taint$", "program_check_(?:exception|common)", "assertfail",
    "stack_trace_consume_entry", "arch_stack_walk", "stack_trace_save", "__fortify_report",
    # arm64's way into a fault.
    "do_(?:kernel|translation)_fault", "do_mem_abort", "el1_abort", "el1h_64_sync(?:_handler)?",
    # Checks that only look.
    "check_heap_object", "check_object", "debug_object", "timer_is_static_object", "work_is_static_object",
    "might_fault", "might_sleep", "__might_resched", "print_unlock", "imbalance_bug", "lockdep", "perf_trace",
    "(?:trace|lockdep)_(?:hard|soft)irq",
)  # fmt: skip

LOCKING = (
    "lock_acquire", "lock_release", "lock_class", "mark_lock", "(?:reacquire|mark)_held_locks",
    "bh_(?:enable|disable)", "raw_spin_rq", "spin_(?:lock|trylock|unlock)", "read_(?:lock|trylock|unlock)",
    "write_(?:lock|trylock|unlock)", "^down$", "down_(?:read|write|trylock)", "up_(?:read|write)", "^mutex_",
    "^__mutex_", "^rt_mutex_", "owner_on_cpu", "osq_(?:lock|unlock)", "seqprop_assert", "__wake_up",
    "finish_wait", "^complete$", "wait_for_completion", "^(?:un)?lock_page", "lock_timer_base",
    "cleanup_srcu_struct",
)  # fmt: skip

COUNTING = (
    "atomic(?:64)?_(?:dec|inc|read|set|or|xor|and|add|sub|fetch|xchg|cmpxchg|try)",
    "(?:set|clear|change|test)_bit", "^refcount_", "^kref_", "ref_tracker", "kobject_", "^iput$",
    "^iput_final$", "^ihold$", "drop_nlink", "^put_device$", "dput", "ida_free",
)  # fmt: skip

MEMORY = (
    "alloc_page", "k?v?(?:m|z|c)alloc", "krealloc", "kmem_cache", "allocate_slab",
    "__alloc_frozen_pages_noprof", "folio_(?:alloc|unlock)", "filemap_alloc_folio",
    "__filemap_get_folio", "find_or_create_page", "do_read_cache_folio", "read_cache_page",
    "mark_buffer_dirty", "pagecache_get_page", "grab_cache_page_write_begin", "slab_", "^kv?free$",
    "kfree_skb", "memcpy", "memcmp", "memset", "memchr", "memmove", "memdup",
    "copy_(?:to|from)_(?:user|iter)", "copy_page_(?:to|from)_iter", "copy_folio_to_iter", "^copyin$",
    "^copyout$", "put_user", "get_user", "extract_(?:user|iter)_to_sg", "xas_(?:start|load|find)",
    "find_lock_entries", "truncate_inode_pages_range", "__phys_addr",
)  # fmt: skip

STRINGS_AND_LISTS = (
    "str(?:cmp|ncmp|cpy|lcpy|ncpy|scpy|len|str|nstr|nlen|chr|dup|ndup)", "string", "pointer", "sc?nprintf",
    "kv?asprintf", "printk", "va_format", "dev_(?:info|notice|warn|err|alert|crit|emerg)",
    "hex_dump_to_buffer", "print_hex_dump", "list_(?:add|del|replace|move|splice)", "^klist_", "^(?:__)?rb_",
    "rhashtable_lookup", r"^crc\d+", "crc_itu_t",
)  # fmt: skip

DEVICES_AND_WORK = (
    "_indirect_thunk_", "del_timer", "__timer_delete_sync", "__mod_timer", "sk_stop_timer_sync", "flush_work",
    "__cancel_work_timer", "cancel_work_sync", "try_to_grab_pending", "(?:drain|destroy)_workqueue",
    "queue_work", "insert_work", "queue_delayed_work", "kthread_stop", "add_uevent_var",
    "get_device_parent", "device_(?:add|del|unregister|destroy|release|for_each_child|remove_file)",
    "devres_release_all", "hwrng_unregister", "i2c_del_adapter", "__unregister_client", "rollback_registered",
    "unregister_netdev", "sysfs_remove", "tty_unregister_device", "dummy_urb_enqueue", "usb_kill_urb",
    "usb_kill_anchored_urbs", "usb_control_msg", "usb_hcd_submit_urb", "usb_submit_urb", "read[bwlq]$",
    "write[bwlq]$", "logic_(?:in|out)",
)  # fmt: skip

ALWAYS = REPORTING + LOCKING + COUNTING + MEMORY + STRINGS_AND_LISTS + DEVICES_AND_WORK


def skipping(more: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern for the functions that never name a crash, and ``more``."""
    return re.compile("|".join(ALWAYS + more), re.ASCII)
