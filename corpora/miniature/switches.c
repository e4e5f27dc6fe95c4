// Switches that gcc makes jump tables of, in the shapes that kernel code has. Compiled by test/graph.test.ts, with and
// without retpolines.
// SPDX-License-Identifier: GPL-2.0-only

int f0(int), f1(int), f2(int), f3(int);
void sink(long);

int by_int(int k, int x)
{
	switch (k) {
	case 0: return f0(x) + 1;
	case 1: return f1(x) + 2;
	case 2: return f2(x) + 3;
	case 3: return f3(x) + 4;
	case 4: return f0(x) * 5;
	case 5: return f1(x) * 6;
	case 7: return f2(x) * 7;
	}
	return x;
}

int by_byte(const unsigned char *k, int x)
{
	switch (*k) {
	case 10: return f0(x) + 1;
	case 11: return f1(x) + 2;
	case 12: return f2(x) + 3;
	case 13: return f3(x) + 4;
	case 14: return f0(x) * 5;
	case 16: return f1(x) * 6;
	}
	return x;
}

int by_long(unsigned long k, int x)
{
	switch (k) {
	case 100: return f0(x) + 1;
	case 101: return f1(x) + 2;
	case 102: return f2(x) + 3;
	case 103: return f3(x) + 4;
	case 104: return f0(x) * 5;
	case 109: return f1(x) * 6;
	}
	return x;
}

int in_a_loop(const unsigned int *code, int n, int x)
{
	for (int i = 0; i < n; i++) {
		switch (code[i]) {
		case 0: x = f0(x); break;
		case 1: x = f1(x) + x; break;
		case 2: x = f2(x) ^ 3; break;
		case 3: x = f3(x) - x; break;
		case 4: return x;
		case 5: x ^= i; break;
		default: sink(x);
		}
	}
	return x;
}

int masked(unsigned int k, int x)
{
	switch (k & 7) {
	case 0: return f0(x) + 1;
	case 1: return f1(x) + 2;
	case 2: return f2(x) + 3;
	case 3: return f3(x) + 4;
	case 4: return f0(x) * 5;
	case 5: return f1(x) * 6;
	case 6: return f2(x) * 7;
	default: return f3(x) * 8;
	}
}

struct thing { long a; unsigned short kind; };

int of_field(const struct thing *p, int x)
{
	switch (p->kind) {
	case 1: return f0(x) + 1;
	case 2: return f1(x) + 2;
	case 3: return f2(x) + 3;
	case 4: return f3(x) + 4;
	case 5: return f0(x) * 5;
	case 6: return f1(x) * 6;
	}
	return x;
}

int through_labels(const unsigned char *code, int x)
{
	static const void *const to[] = { &&add, &&sub, &&mul, &&end };
next:
	goto *to[*code++ & 3];
add:	x = f0(x); goto next;
sub:	x = f1(x); goto next;
mul:	x = f2(x) * x; goto next;
end:	return x;
}
