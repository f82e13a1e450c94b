"""Memory: leaks, pages and counters in a bad state, copies past an object's end."""

from __future__ import annotations

from ktriage.console.formats.format import STACK, Format, Stack, traced, warned

# Whoever asked for the memory leaked it, not the allocator.
ALLOCATORS = (
    "kmemleak", "mmap", "kmem", "slab", "alloc", "create_object", "idr_get", "list_lru_init", "kasprintf",
    "kvasprintf", "pcpu_create", "strdup", "strndup", "memdup",
)  # fmt: skip
PAGES = (
    "(?:free|put|get|update|release)_page", "free_unref", "^_*folio", "truncate_inode_pages",
    "page_frag_free", "alloc", "vmap", "page_owner",
)  # fmt: skip

FORMATS = (
    Format(
        "BUG:",
        "BUG: memory leak",
        "memory leak in {frame}",
        stack=Stack((r"backtrace(?: \(crc [0-9a-fA-F]*\))?:", STACK), skip=ALLOCATORS),
    ),
    Format(
        "BUG:",
        "BUG: Bad page (?P<what>state|cache)",
        "BUG: Bad page {what} in {frame}",
        # Named by who allocated the page; without CONFIG_PAGE_OWNER nobody knows.
        stack=Stack(("page last allocated", STACK), skip=PAGES),
    ),
    Format("BUG:", "BUG: Bad page map", "BUG: Bad page map"),
    Format("BUG:", "BUG: Bad rss-counter state", "BUG: Bad rss-counter state", trace=False),
    Format(
        "BUG:",
        "BUG: non-zero nr_(?P<what>ptes|pmds) on freeing mm",
        "BUG: non-zero nr_{what} on freeing mm",
        trace=False,
    ),
    Format("BUG kmalloc-", "BUG kmalloc-.*: Object already free", "BUG: Object already free"),
    Format(
        "kernel BUG",
        r"kernel BUG at mm/usercopy\.c",
        "BUG: bad usercopy in {frame}",
        stack=traced("usercopy", "__check"),
    ),
    Format(
        "WARNING:",
        r"WARNING: .*mm/usercopy\.c.* (?:usercopy_warn|at)",
        "WARNING: bad usercopy in {frame}",
        stack=warned("usercopy", "__check"),
    ),
    Format(
        "WARNING:",
        r"WARNING: .*mm/.*\.c.* k?.?malloc",
        "WARNING: kmalloc bug in {frame}",
        stack=warned("kmalloc", "krealloc", "slab", "kmem"),
    ),
    Format(
        "WARNING:",
        r"WARNING: .*mm/vmalloc\.c.*__vmalloc_node",
        "WARNING: zero-size vmalloc in {frame}",
        stack=warned(),
    ),
    # What is left of SLUB's own report when its head is lost.
    Format(
        "INFO:", "INFO: (?P<what>Freed|Allocated) in (?P<rest>.*)", "INFO: {what} in {rest}", corrupted=True
    ),
)
