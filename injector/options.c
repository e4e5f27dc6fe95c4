// SPDX-License-Identifier: GPL-2.0-only
/*
 * options: words in, struct options out, or one line that says what is wrong
 * with them. Which options go with which others is a command's to say.
 */
#include <string.h>
#include "fail.h"
#include "options.h"
#include "text.h"

#define NS_PER_MS	1000000ull
#define MAX_STOP_MS	60000	/* longer than any machine may stand */
#define MAX_DUMPS	1000000

static const struct option {
	const char *name;
	char letter;
	int has_value;
} known[] = {
	{ "-o", TAKES_OUTPUT, 1 },
	{ "--max-stop-ms", TAKES_STOP, 1 },
	{ "--for", TAKES_FOR, 1 },
	{ "--every", TAKES_EVERY, 1 },
	{ "--count", TAKES_COUNT, 1 },
	{ "--json", TAKES_JSON, 0 },
};

static const struct option *find(const char *word)
{
	size_t i;

	for (i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (!strcmp(word, known[i].name))
			return &known[i];
	return NULL;
}

static int set_number(const struct option *option, const char *value,
		      uint64_t most, uint64_t *ret)
{
	return text_number(value, most, ret) ?
		fail(EXIT_USAGE, "%s takes a number from 1 to %llu, not %s",
		     option->name, (unsigned long long)most, value) : 0;
}

static int set_time(const struct option *option, const char *value,
		    uint64_t *ret)
{
	return text_duration(value, ret) ?
		fail(EXIT_USAGE, "%s takes a time such as 500ms, 10s, 5m or 2h, not %s",
		     option->name, value) : 0;
}

static int set(struct options *options, const struct option *option,
	       const char *value)
{
	int code;

	switch (option->letter) {
	case TAKES_JSON:
		options->json = 1;
		return 0;
	case TAKES_OUTPUT:
		if (!*value)
			return fail(EXIT_USAGE, "-o takes a file's name");
		options->output = value;
		return 0;
	case TAKES_STOP:
		code = set_number(option, value, MAX_STOP_MS,
				  &options->max_stop_ns);
		options->max_stop_ns *= NS_PER_MS;
		return code;
	case TAKES_COUNT:
		return set_number(option, value, MAX_DUMPS, &options->count);
	case TAKES_FOR:
		return set_time(option, value, &options->for_ns);
	default:
		return set_time(option, value, &options->every_ns);
	}
}

static int is_set(const struct options *options, char letter)
{
	switch (letter) {
	case TAKES_JSON:
		return options->json;
	case TAKES_OUTPUT:
		return options->output != NULL;
	case TAKES_STOP:
		return options->max_stop_ns != 0;
	case TAKES_COUNT:
		return options->count != 0;
	case TAKES_FOR:
		return options->for_ns != 0;
	default:
		return options->every_ns != 0;
	}
}

int options_read(const char *command, const char *takes,
		 const char *arguments, const char *const *words,
		 struct options *ret)
{
	const struct option *option;
	const char *word;
	int code;

	memset(ret, 0, sizeof(*ret));
	while ((word = *words++)) {
		option = find(word);
		if (!option && word[0] == '-')
			return fail(EXIT_USAGE, "there is no option %s: see kerninst-inject help",
				    word);
		if (!option) {
			if (!strchr(takes, TAKES_BUNDLE) || ret->bundle)
				return fail(EXIT_USAGE, "%s takes %s, and not %s",
					    command, *arguments ? arguments :
					    "nothing", word);
			ret->bundle = word;
			continue;
		}
		if (!strchr(takes, option->letter))
			return fail(EXIT_USAGE, "%s takes no %s", command,
				    word);
		if (is_set(ret, option->letter))
			return fail(EXIT_USAGE, "%s is there twice", word);
		/* A file whose name starts so is ./-name. */
		if (option->has_value && (!*words || **words == '-'))
			return fail(EXIT_USAGE, "%s needs a value", word);
		code = set(ret, option, option->has_value ? *words : "");
		if (code)
			return code;
		words += option->has_value;
	}
	if (strchr(takes, TAKES_BUNDLE) && !ret->bundle)
		return fail(EXIT_USAGE, "%s needs a bundle: %s %s", command,
			    command, arguments);
	return 0;
}
